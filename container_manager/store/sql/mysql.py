"""MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from ...conf import app_settings
from .lanes import LANES, Lane, LaneSQL, Wanted, batches
from .row_by_row import RowByRowStore
from .statements import LOCK_SHARE, STATEMENT_SHARE

# A statement that has waited for so long is sent again, to skip locked rows. MySQL takes no less.
_LOCK_SECONDS = 1
_LOCK_WAIT_TIMEOUT, _SIGNALLED = 1205, 1644
# What MySQL answers to NOWAIT; MariaDB answers as to a time-out.
_LOCK_NOWAIT = 3572
# A lock, a statement on MariaDB, a statement on MySQL.
_TIMED_OUT = (_LOCK_WAIT_TIMEOUT, 1969, 3024)
_ALL_PRIORITIES = (
    "WITH RECURSIVE all_priorities(priority) AS "
    "(SELECT 0 UNION ALL SELECT priority + 1 FROM all_priorities WHERE priority < 100)"
)
# The values that the jobs of a lane have in common: whether they have a schedule, executor, queue, priority.
_Start = tuple[Any, ...]
# Executor and queue, or as many of them as are given, and the value that the next one found is before; None: the last.
_Probe = tuple[tuple[str, ...], Any]


class MySQLStore(RowByRowStore):
    vendor = "mysql"
    lock = " FOR UPDATE SKIP LOCKED"
    # InnoDB locks the index entries that it reads. Another index than the key's has another order, and other rows.
    by_key = "CAST({} AS BINARY)"
    # The optimizer scans a small table instead, which locks every row.
    by_primary = "FORCE INDEX (PRIMARY)"
    retrying = "container_manager_containerjob FORCE INDEX (cm_job_retrying) WHERE status = 'retrying'"

    @property
    def now(self) -> str:
        return self.dialect.now

    def after(self, seconds: str) -> str:
        return f"{self.now} + INTERVAL {seconds} SECOND"

    def seconds_since(self, moment: str) -> str:
        return f"{self.microseconds(moment, self.now)} / 1000000.0"

    def microseconds(self, since: str, to: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {since}, {to})"

    def session_settings(self, connection: BaseDatabaseWrapper, *, lease_seconds: float) -> Sequence[str]:
        statement, tables = lease_seconds * STATEMENT_SHARE, ceil(lease_seconds * LOCK_SHARE)
        locks = f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}, SESSION lock_wait_timeout = {tables}"
        if not getattr(connection, "mysql_is_mariadb", False):
            # MySQL does not limit idle transactions, and of statements only those that read.
            return (f"{locks}, SESSION max_execution_time = {ceil(statement * 1000)}",)
        idle = ceil(lease_seconds)
        return (f"{locks}, SESSION max_statement_time = {statement}, SESSION idle_transaction_timeout = {idle}",)

    def connect_options(self, *, seconds: float) -> Mapping[str, Any]:
        # The driver lets no other thread end a connection that is being made. Twice, since a connection that is in use
        # is ended before that.
        answer = ceil(2 * seconds)
        return {"connect_timeout": ceil(seconds), "read_timeout": answer, "write_timeout": answer}

    def has_timed_out(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] in _TIMED_OUT)

    def is_lock_timeout(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] == _LOCK_WAIT_TIMEOUT)

    def is_refusal(self, error: BaseException) -> bool:
        # What a trigger signals by itself is an OperationalError.
        return super().is_refusal(error) or bool(error.args and error.args[0] == _SIGNALLED)

    @property
    def lanes(self) -> LaneSQL:
        # By its statistics the optimizer would take the index of another condition.
        return LaneSQL(now=self.now, force="FORCE INDEX ({})", partial=False)

    def due_lanes(self, cursor: Any, wanted: Wanted) -> list[Lane]:
        """Return the lanes with jobs, due or not: to look at the first jobs of a lane costs no more than to ask.

        The optimizer finds a place in an index only by values that it knows, so a recursive query would read all rows
        of an executor: a statement for each step, of all lanes at once. Those with a schedule are looked for only if
        some job is due by its schedule.
        """
        starts = [(False, *start) for start in wanted.starts]
        cursor.execute(f"SELECT {self._any_scheduled_due}", [])
        if cursor.fetchone()[0]:
            starts += [(True, *start) for start in wanted.starts]
        found = self._steps(cursor, "queue", starts) if len(starts[0]) == 2 else starts
        if not found:
            return []
        cursor.execute("SELECT name FROM container_manager_pausedqueue", [])
        paused = {name for (name,) in cursor.fetchall()}
        served = [
            lane for lane in found if lane[2] not in paused and (wanted.queues is None or lane[2] in wanted.queues)
        ]
        ready = [lane for lane in served if not lane[0]]
        scheduled = self._steps(cursor, "priority", [lane for lane in served if lane[0]])
        return [Lane(*lane[1:]) for lane in (*ready, *scheduled)]

    def is_due(self, cursor: Any, wanted: Wanted) -> bool:
        if wanted.only is not None:
            return super().is_due(cursor, wanted)
        return bool(self.first_jobs(cursor, self.due_lanes(cursor, wanted), 1))

    def any_due(self, wanted: Wanted) -> tuple[str, list[Any]]:
        """Return a condition that is true for paused queues too, and for any job that is due by its schedule."""
        where = f"j.executor IN ({', '.join(['%s'] * len(wanted.executors))})"
        if wanted.queues is not None:
            where += f" AND j.queue IN ({', '.join(['%s'] * len(wanted.queues))})"
        ready = self.lanes.probe("1", where=where, order="j.executor", scheduled=False)
        return f"(EXISTS ({ready}) OR {self._any_scheduled_due})", [*wanted.executors, *(wanted.queues or ())]

    @property
    def _any_scheduled_due(self) -> str:
        due = f"status = 'queued' AND scheduled_for <= {self.now}"
        return f"EXISTS (SELECT 1 FROM container_manager_containerjob FORCE INDEX (cm_job_claim) WHERE {due})"

    def queued_destinations(self, cursor: Any) -> list[tuple[str, str]]:
        return [place[:2] for place in self._places(cursor) if len(place) == 2]

    def queued_lanes(self, cursor: Any) -> list[Lane]:
        return [Lane(*place) for place in self._places(cursor, with_priorities=True) if len(place) > 1]

    def priorities(self, cursor: Any, places: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
        found = list[tuple[str, str, int]]()
        for batch in batches(places, LANES):
            texts = [self._priorities_sql(scheduled=False)] * len(batch)
            params = [value for number, place in enumerate(batch) for value in (number, *place)]
            cursor.execute(f"{_ALL_PRIORITIES} {' UNION ALL '.join(texts)}", params)
            found += [(*batch[number], int(priority)) for number, priority in cursor.fetchall()]
        return found

    def _places(self, cursor: Any, *, with_priorities: bool = False) -> list[tuple[Any, ...]]:
        """Return the executors of queued jobs, the queues of each, and on demand the priorities of scheduled jobs.

        All that is known is asked for at once, at every depth: the executors of the settings, the queues in which
        something has happened. What is found leads to the one before it, and to what is below it, unless that was
        asked: if nothing unknown is found, one statement finds them all.
        """
        queues, any_scheduled = self._known_queues(cursor)
        deepest = 3 if with_priorities and any_scheduled else 2
        executors = [*app_settings().executors]
        known = [(), *((executor,) for executor in executors)]
        asked = dict[_Probe, None]()
        at = [(start, last) for start in known for last in (None, *(queues if start else executors))]
        if deepest == 3 and len(executors) * len(queues) <= LANES:
            # Of more places than that, of those alone that have jobs.
            at += [((executor, queue), None) for executor in executors for queue in queues]
        found = dict[tuple[Any, ...], None]()
        while at:
            asked |= dict.fromkeys(at)
            new = dict[_Probe, None]()
            for batch in batches(at, LANES):
                for number, value in self._probed(cursor, batch):
                    start = batch[number][0]
                    place: tuple[Any, ...] = (*start, int(value) if len(start) == 2 else value)
                    found[place] = None
                    if len(start) < 2:
                        new[start, value] = None
                    if len(place) < deepest:
                        new[place, None] = None
            at = [probe for probe in new if probe not in asked]
        return list(found)

    def _known_queues(self, cursor: Any) -> tuple[list[str], bool]:
        """Return the names of the queues in which something has happened, and whether any queued job has a schedule."""
        jobs = "container_manager_containerjob FORCE INDEX (cm_job_claim)"
        scheduled = f"SELECT 1 FROM {jobs} WHERE status = 'queued' AND scheduled_for IS NOT NULL"
        cursor.execute(
            "SELECT queue FROM container_manager_queuespan WHERE length = 0 UNION ALL "
            f"SELECT NULL FROM DUAL WHERE EXISTS ({scheduled})",
            [],
        )
        names = [name for (name,) in cursor.fetchall()]
        return sorted(name for name in names if name is not None), None in names

    def _probed(self, cursor: Any, probes: Sequence[_Probe]) -> list[tuple[int, Any]]:
        """Return what these find, each with the number of its probe."""
        texts, params = [], list[Any]()
        for number, (start, last) in enumerate(probes):
            if len(start) == 2:
                text, values = self._priorities_sql(scheduled=True), list(start)
            else:
                # The index of scheduled jobs has the others too.
                text, values = self._step_sql((True, *start), ("executor", "queue")[len(start)], last)
            texts.append(f"SELECT * FROM ({text}) AS probe{number}")
            params += [number, *values]
        cursor.execute(f"{_ALL_PRIORITIES} {' UNION ALL '.join(texts)}", params)
        return list(cursor.fetchall())

    def _priorities_sql(self, *, scheduled: bool) -> str:
        """Return a SELECT of the priorities of jobs; its parameters are a column, an executor and a queue.

        A look into the index for each of 101: to go from each to the next takes a statement for each.
        """
        where = "j.executor = %s AND j.queue = %s AND j.priority = p.priority"
        order = "j.scheduled_for" if scheduled else "j.queued_at"
        first = self.lanes.probe("1", where=where, order=order, scheduled=scheduled)
        # A scalar subquery and no EXISTS, which would become a join that reads all jobs.
        return f"SELECT %s, CAST(p.priority AS CHAR) FROM all_priorities p WHERE ({first}) = 1"

    def _steps(self, cursor: Any, column: str, starts: Sequence[_Start]) -> list[_Start]:
        """Return the beginnings of lanes, each with every value that its jobs have in the next column.

        Each value leads to the one before it.
        """
        found = dict[_Start, None]()
        at: list[tuple[_Start, Any]] = [(start, None) for start in starts]
        while at:
            new = list[tuple[_Start, Any]]()
            for batch in batches(at, LANES):
                texts, params = [], []
                for number, (lane, last) in enumerate(batch):
                    text, values = self._step_sql(lane, column, last)
                    texts.append(f"SELECT * FROM ({text}) AS lane{number}")
                    params += [number, *values]
                cursor.execute(" UNION ALL ".join(texts), params)
                new += [(batch[number][0], value) for number, value in cursor.fetchall()]
            found |= dict.fromkeys((*lane, value) for lane, value in new)
            at = new
        return list(found)

    def _step_sql(self, lane: Sequence[Any], column: str, last: Any) -> tuple[str, list[Any]]:
        scheduled, *values = lane
        where = ["j.executor = %s", "j.queue = %s"][: len(values)] or ["TRUE"]
        # Backwards, as all scans of lanes; priorities descend in the index.
        order, beyond = ("j.priority", ">") if column == "priority" else (f"j.{column} DESC", "<")
        if last is not None:
            where.append(f"j.{column} {beyond} %s")
            values.append(last)
        return self.lanes.probe(f"%s, j.{column}", where=" AND ".join(where), order=order, scheduled=scheduled), values

    def is_settled(self, cursor: Any, mark: int, *, after: int, to: int, limit: int) -> bool:
        # Rows that are not committed are locked, and are seen by a statement that locks.
        try:
            cursor.execute(
                "SELECT id FROM container_manager_jobtransition WHERE id > %s AND id <= %s ORDER BY id LIMIT %s "
                "FOR UPDATE NOWAIT",
                [after, to, limit],
            )
            cursor.fetchall()
        except OperationalError as error:
            if error.args and error.args[0] in (_LOCK_WAIT_TIMEOUT, _LOCK_NOWAIT):
                return False
            raise
        return True

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT IGNORE INTO {rest}"

"""Lanes: where in an index the jobs stand that a worker may claim next, found without reading the jobs before them.

Jobs without a schedule stand in one lane per executor and queue, in the order of claims. Scheduled jobs stand in one
per executor, queue and priority, those that are due first. Which lanes there are is found by a loose index scan: one
probe leads from each lane to the next. So neither jobs that are not due yet nor those of other executors, other queues
and paused queues are read, however many there are.

The scan goes backwards, from the last job of one lane to the last of the lane before it: at the beginning of a lane are
the index entries of jobs that were claimed lately, until the database removes them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

_JOB = "container_manager_containerjob"
NOT_PAUSED = "queue NOT IN (SELECT name FROM container_manager_pausedqueue)"
# Of more pairs of an executor and a queue all queues are looked at: databases limit the terms of a UNION.
_MOST_PAIRS = 100
# A statement reads this many lanes, for the same reason.
LANES = 100
# The order of claims.
ORDER = "priority DESC, queued_at, id"
T = TypeVar("T")


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the values in batches."""
    return (values[start : start + size] for start in range(0, len(values), size))


def _is_found(column: str) -> str:
    """Return the condition of a recursive query that a row is a find, not the NULL after the last.

    It is IS NOT NULL, written so that PostgreSQL expects few rows: one in 200, as of any such comparison, where of
    IS NOT NULL it expects all. A scan that begins with the finds of another one, which begins with those of a third,
    would have an estimate of millions of rows, and would be compiled (JIT), which takes longer than a hundred of them.
    """
    return f"{column} || '' = {column}"


class Wanted(NamedTuple):
    """The jobs that a worker may claim: of these queues (None: all), ``only`` this one, none of ``besides``."""

    executors: Sequence[str]
    queues: Sequence[str] | None = None
    only: uuid.UUID | None = None
    besides: frozenset[uuid.UUID] = frozenset()

    @property
    def starts(self) -> list[tuple[str, ...]]:
        """Where a scan begins: at these pairs of an executor and a queue, or at the executors."""
        if self.queues is None or len(self.executors) * len(self.queues) > _MOST_PAIRS:
            return [(executor,) for executor in self.executors]
        return [(executor, queue) for executor in self.executors for queue in self.queues]


class Lane(NamedTuple):
    """A lane; ``priority``: None where the jobs have no schedule."""

    executor: str
    queue: str
    priority: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSQL:
    """The SQL of lanes for one database.

    ``now``: its time. ``force``: how it is made to use an index, if it must be. ``partial``: whether its indexes are
    partial; if not, that of scheduled jobs has all queued ones.
    """

    now: str
    force: str = ""
    partial: bool = True

    def probe(self, columns: str, *, where: str, order: str, scheduled: bool) -> str:
        """Return a SELECT of the first queued job, ``j``, in an order that its index has."""
        index = self.force.format("cm_job_scheduled" if scheduled else "cm_job_claim")
        kind = "j.scheduled_for IS NOT NULL AND " if scheduled and self.partial else ""
        kind = kind if scheduled else "j.scheduled_for IS NULL AND "
        return (
            f"SELECT {columns} FROM {_JOB} j {index} WHERE j.status = 'queued' AND {kind}{where} "
            f"ORDER BY {order} LIMIT 1"
        )

    def jobs(self, columns: str, *, scheduled: bool, lane: str = "") -> str:
        """Return a SELECT of the first due jobs of a lane; its last parameter is how many.

        ``lane``: the row that names the lane. Without one the first parameters are its queue, which may have been
        paused by now, and the lane's own.
        """
        names = ("executor", "queue", "priority") if scheduled else ("executor", "queue")
        where = " AND ".join(f"j.{name} = {lane + '.' + name if lane else '%s'}" for name in names)
        if not lane:
            where = f"NOT EXISTS (SELECT 1 FROM container_manager_pausedqueue WHERE name = %s) AND {where}"
        index = self.force.format("cm_job_scheduled" if scheduled else "cm_job_claim")
        due, order = ("IS NULL", "j.priority DESC, j.queued_at, j.id")
        if scheduled:
            due, order = (f"<= {self.now}", "j.scheduled_for, j.id")
        return (
            f"SELECT {columns} FROM {_JOB} j {index} WHERE j.status = 'queued' AND {where} "
            f"AND j.scheduled_for {due} ORDER BY {order} LIMIT %s"
        )

    def scan(self, wanted: Wanted) -> tuple[str, list[Any]]:
        """Return the SELECT of the lanes with due jobs that are wanted and not paused, and its parameters."""
        ready, params = self._queues("ready_queue", wanted, scheduled=False)
        scheduled, _ = self._queues("scheduled_queue", wanted, scheduled=True)
        served, names = NOT_PAUSED, list[str]()
        if wanted.queues is not None:
            names = [*wanted.queues]
            served += f" AND queue IN ({', '.join(['%s'] * len(names))})"
        # A scalar subquery and no EXISTS, which PostgreSQL would turn into a join that reads all jobs.
        due = self.jobs("1", scheduled=True, lane="s")
        return (
            f"WITH RECURSIVE {ready}, {scheduled}, {self._scheduled(f' AND s.{served}')} "
            f"SELECT executor, queue, NULL FROM ready_queue WHERE queue IS NOT NULL AND {served} UNION ALL "
            f"SELECT executor, queue, priority FROM scheduled s WHERE s.priority IS NOT NULL AND ({due}) = 1",
            [*params, *params, *names, *names, 1],
        )

    def all_queues(self) -> str:
        """Return the SELECT of the executors and queues of queued jobs, due or not."""
        kinds = ("ready_queue", "scheduled_queue")
        selects = [f"SELECT executor, queue FROM {kind} WHERE queue IS NOT NULL" for kind in kinds]
        return f"WITH RECURSIVE {self._all_queues()} {' UNION '.join(selects)}"

    def all_lanes(self) -> str:
        """Return the SELECT of the lanes of queued jobs, due or not."""
        return (
            f"WITH RECURSIVE {self._all_queues()}, {self._scheduled()} "
            "SELECT executor, queue, NULL FROM ready_queue WHERE queue IS NOT NULL UNION ALL "
            "SELECT executor, queue, priority FROM scheduled WHERE priority IS NOT NULL"
        )

    def priorities(self, lanes: int) -> str:
        """Return the SELECT of executor, queue and priority of jobs without a schedule in so many lanes.

        Its parameters are the executor and the queue of each.
        """
        columns, where = "j.executor, j.queue, j.priority", "j.executor = %s AND j.queue = %s"
        first = self.probe(columns, where=where, order="j.priority", scheduled=False)
        following = self._next_priority("p", scheduled=False)
        return (
            "WITH RECURSIVE found(executor, queue, priority) AS ("
            + "".join(f"SELECT * FROM ({first}) AS start{number} UNION ALL " for number in range(lanes))
            + f"SELECT p.executor, p.queue, ({following}) FROM found p WHERE p.priority IS NOT NULL) "
            "SELECT executor, queue, priority FROM found WHERE priority IS NOT NULL"
        )

    def _scheduled(self, more: str = "") -> str:
        """Return a CTE of the lanes of scheduled jobs, from that of their queues, with NULL after the last of each."""
        where = "j.executor = s.executor AND j.queue = s.queue"
        first = self.probe("j.priority", where=where, order="j.priority", scheduled=True)
        following = self._next_priority("s", scheduled=True)
        return (
            "scheduled(executor, queue, priority) AS ("
            f"SELECT s.executor, s.queue, ({first}) FROM scheduled_queue s WHERE {_is_found('s.queue')}{more} "
            f"UNION ALL SELECT s.executor, s.queue, ({following}) FROM scheduled s WHERE s.priority IS NOT NULL)"
        )

    def _next_priority(self, row: str, *, scheduled: bool) -> str:
        where = f"j.executor = {row}.executor AND j.queue = {row}.queue AND j.priority > {row}.priority"
        return self.probe("j.priority", where=where, order="j.priority", scheduled=scheduled)

    def _all_queues(self) -> str:
        """Return CTEs of the queues of all executors, of jobs without a schedule and with one apart."""
        texts = []
        for kind, scheduled in (("ready", False), ("scheduled", True)):
            first_executor, next_executor, first_queue, next_queue = (
                self.probe(f"j.{column}", where=where, order=f"j.{column} DESC", scheduled=scheduled)
                for column, where in (
                    ("executor", "j.executor IS NOT NULL"),
                    ("executor", "j.executor < e.executor"),
                    ("queue", "j.executor = e.executor"),
                    ("queue", "j.executor = q.executor AND j.queue < q.queue"),
                )
            )
            texts.append(
                f"{kind}_executor(executor) AS (SELECT * FROM ({first_executor}) AS {kind}_first UNION ALL "
                f"SELECT ({next_executor}) FROM {kind}_executor e WHERE {_is_found('e.executor')}), "
                f"{kind}_queue(executor, queue) AS (SELECT e.executor, ({first_queue}) FROM {kind}_executor e "
                f"WHERE {_is_found('e.executor')} UNION ALL SELECT q.executor, ({next_queue}) FROM {kind}_queue q "
                f"WHERE {_is_found('q.queue')})"
            )
        return ", ".join(texts)

    def _queues(self, name: str, wanted: Wanted, *, scheduled: bool) -> tuple[str, list[Any]]:
        """Return a CTE of the executors' queues that have jobs, with NULL after the last, and its parameters."""
        starts = wanted.starts
        terms = [
            f"SELECT * FROM ({self._start(start, scheduled=scheduled)}) AS start{number}"
            for number, start in enumerate(starts)
        ]
        if len(starts[0]) == 1:
            following = self.probe(
                "j.queue",
                where="j.executor = q.executor AND j.queue < q.queue",
                order="j.queue DESC",
                scheduled=scheduled,
            )
            terms.append(f"SELECT q.executor, ({following}) FROM {name} q WHERE {_is_found('q.queue')}")
        params = [value for start in starts for value in start]
        return f"{name}(executor, queue) AS ({' UNION ALL '.join(terms)})", params

    def _start(self, start: Sequence[str], *, scheduled: bool) -> str:
        if len(start) == 1:
            where, order = "j.executor = %s", "j.queue DESC"
        else:
            # An order that only the index has: else a planner may take the whole table to be as good for one row.
            time = "j.scheduled_for" if scheduled else "j.queued_at"
            where, order = "j.executor = %s AND j.queue = %s", f"j.priority, {time} DESC, j.id DESC"
        return self.probe("j.executor, j.queue", where=where, order=order, scheduled=scheduled)


def due_sql(now: str, *, row: str = "") -> str:
    """Return the condition that a job's time has come, if it has one; `ContainerJobQuerySet` has the ORM's.

    No index serves its OR: statements that read an index ask for the two kinds of jobs apart.
    """
    return f"{row}scheduled_for IS NULL OR {row}scheduled_for <= {now}"


def only_sql(wanted: Wanted, now: str) -> tuple[str, list[Any]]:
    """Return the table and condition of a job ``j`` that is named by its key, and the parameters after the key."""
    where = f"j.id = %s AND j.status = 'queued' AND j.executor IN ({', '.join(['%s'] * len(wanted.executors))})"
    if wanted.queues is not None:
        where += f" AND j.queue IN ({', '.join(['%s'] * len(wanted.queues))})"
    where += f" AND ({due_sql(now, row='j.')}) AND j.{NOT_PAUSED}"
    return f"{_JOB} j WHERE {where}", [*wanted.executors, *(wanted.queues or ())]

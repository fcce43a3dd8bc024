"""PostgreSQL: a batch is claimed, or finished, in one statement."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from math import ceil
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob, JobStatus
from ...statemachine.assignments import assignments_by_target
from ...statemachine.triggers.dialect import sqlstate
from ..values import JOB_COLUMNS, Outcome
from .lanes import NOT_PAUSED, ORDER, Lane, Wanted, due_sql, only_sql
from .statements import ATTEMPT_COLUMNS, LOCK_SHARE, STATEMENT_SHARE, Keys, StoreSQL

# How long a statement waits for a lock: longer than short transactions take. Then locked rows are skipped.
_LOCK_MILLISECONDS = 100
_LOCK_NOT_AVAILABLE, _QUERY_CANCELED = "55P03", "57014"
_TIMED_OUT = (_QUERY_CANCELED, _LOCK_NOT_AVAILABLE)
# What a trigger raises by itself.
_PLPGSQL_ERRORS = "P0"
_ENDS = (JobStatus.COMPLETED, JobStatus.FAILED)
_OUTCOME_NUMBERS = ("attempt", "exit_code", "signal", "peak_memory_bytes", "cpu_seconds")

# Transactions of other databases, and those that have written no journal, hold back the first answer alone. Whoever
# writes the journal has changed a job before: it has its transaction id before the row has its key.
_IS_SETTLED = """SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %s OR NOT EXISTS (
    SELECT FROM pg_locks journal JOIN pg_locks own USING (virtualtransaction)
    WHERE journal.locktype = 'relation' AND journal.relation = 'container_manager_jobtransition'::regclass
      AND journal.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND journal.mode = 'RowExclusiveLock'
      AND own.locktype = 'transactionid' AND own.mode = 'ExclusiveLock'
      AND age(own.transactionid) > age(CAST(CAST(%s AS text) AS xid)))"""


class PostgreSQLStore(StoreSQL):
    vendor = "postgresql"
    now = "statement_timestamp()"
    finishes_in_one_statement = True
    # Whoever inserts a row that refers to one of ours (FOR KEY SHARE) is not in the way of what workers change.
    lock = " FOR NO KEY UPDATE SKIP LOCKED"
    lock_referred = " FOR KEY SHARE SKIP LOCKED"

    def after(self, seconds: str) -> str:
        return f"statement_timestamp() + make_interval(secs => {seconds})"

    def seconds_since(self, moment: str) -> str:
        return f"EXTRACT(EPOCH FROM statement_timestamp() - {moment})"

    def microseconds(self, since: str, to: str) -> str:
        return f"CAST(EXTRACT(EPOCH FROM {to} - {since}) * 1000000 AS bigint)"

    def minute(self, moment: str) -> str:
        # Its text would be that of the session's zone, in which an hour may repeat.
        return f"date_trunc('minute', {moment})"

    def session_settings(self, connection: BaseDatabaseWrapper, *, lease_seconds: float) -> Sequence[str]:
        return (
            f"SET idle_in_transaction_session_timeout = {ceil(lease_seconds * 1000)}",
            f"SET lock_timeout = {ceil(lease_seconds * LOCK_SHARE * 1000)}",
            f"SET statement_timeout = {ceil(lease_seconds * STATEMENT_SHARE * 1000)}",
            # For prepared statements.
            "SET plan_cache_mode = force_generic_plan",
            # A cached plan must not be the one for a small table. (Without a usable index that plan has a cost that
            # would trigger JIT compilation.)
            "SET enable_seqscan = off",
            "SET jit = off",
        )

    def prepare_statements(self, connection: BaseDatabaseWrapper) -> None:
        # Planning takes as long as claiming or finishing a job.
        driver = connection.connection
        if hasattr(driver, "prepare_threshold"):
            from django.db.backends.postgresql import base

            driver.prepare_threshold = 1
            if driver.cursor_factory is base.Cursor:
                # It would write the parameters into the statement, so that none is repeated.
                driver.cursor_factory = base.ServerBindingCursor

    def connect_options(self, *, seconds: float) -> Mapping[str, Any]:
        return {"connect_timeout": ceil(seconds)}

    def has_timed_out(self, error: BaseException) -> bool:
        return sqlstate(error) in _TIMED_OUT

    def is_pooled(self, connection: BaseDatabaseWrapper) -> bool:
        # For requests to cancel, a server tells its clients the process that serves them. A pooler has many for each
        # client, so it has to tell something else. The setting is what Django asks for behind a pooler.
        if connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
            return True
        with _unprepared(connection), connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()", [])
            (served_by,) = cursor.fetchone()
        return bool(connection.connection.info.backend_pid != served_by)

    def transaction_mark(self, cursor: Any) -> int:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint", [])
        return int(cursor.fetchone()[0])

    def is_settled(self, cursor: Any, mark: int, *, after: int, to: int, limit: int) -> bool:
        cursor.execute(_IS_SETTLED, [mark, mark % 2**32])
        return bool(cursor.fetchone()[0])

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT INTO {rest} ON CONFLICT DO NOTHING"

    def claim(
        self,
        connection: BaseDatabaseWrapper,
        worker: str,
        wanted: Wanted,
        lanes: Sequence[Lane],
        *,
        limit: int,
        reach: int,
        engines: Mapping[str, str],
    ) -> tuple[list[Sequence[Any]], int]:
        engine, names = self.engine_column(engines)
        params: list[Any]
        if wanted.only is None and len(lanes) == 1 and not wanted.besides:
            sql, params = (
                self._claim_lane(lanes[0].priority is not None, engine),
                [lanes[0].queue, *(value for value in lanes[0] if value is not None), limit],
            )
        else:
            if wanted.only is not None:
                candidates, params = only_sql(wanted, self.now)
                params = [wanted.only, *params]
            else:
                candidates, params = self._lanes_sql(lanes, reach)
            besides = [list(wanted.besides)] if wanted.besides else []
            sql = self._claim_first(candidates, engine, excludes=bool(besides))
            params = [*params, reach, *besides, limit]
        with connection.cursor() as cursor:
            cursor.execute(sql, [*params, worker, worker, worker, *names])
            rows: list[Sequence[Any]] = cursor.fetchall()
        # One row at least, which says how many were seen.
        return [row[1:] for row in rows if row[1] is not None], rows[0][0]

    def is_lock_timeout(self, error: BaseException) -> bool:
        return bool(sqlstate(error) == _LOCK_NOT_AVAILABLE)

    def is_refusal(self, error: BaseException) -> bool:
        return super().is_refusal(error) or str(sqlstate(error)).startswith(_PLPGSQL_ERRORS)

    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], *, skip_locked: bool
    ) -> tuple[set[uuid.UUID], Keys]:
        # The driver converts each member of a list by itself, which takes longer than all the rest. So members that
        # need no quoting are passed as one text, and a column without values as NULL.
        given = dict(zip(Outcome._fields, map(list, zip(*outcomes, strict=True)), strict=True))
        columns: list[Any] = [_array([job_id.hex for job_id in given["job_id"]]), _array(given["status"])]
        columns += [given[name] if any(given[name]) else None for name in ("reason", "message", "result")]
        columns += [_array(given[name]) for name in _OUTCOME_NUMBERS]
        with connection.cursor() as cursor:
            cursor.execute(self._finish_sql(skip_locked), [*columns, worker, worker, worker])
            fates = cursor.fetchall()
            done = {job for job, _, is_done, _ in fates if is_done}
            closed = {(job, number) for job, number, _, is_closed in fates if is_closed}
            retries = [o for o in outcomes if o.retry_after_seconds is not None and o.job_id in done]
            if retries:
                cursor.execute(
                    self._retry_sql,
                    [
                        worker,
                        [o.job_id for o in retries],
                        [o.retry_after_seconds for o in retries],
                        [int(o.counts_as_retry) for o in retries],
                    ],
                )
        return done, closed

    def first_jobs(self, cursor: Any, lanes: Sequence[Lane], reach: int) -> list[Any]:
        candidates, params = self._lanes_sql(lanes, reach)
        order = "j.priority DESC, j.queued_at, j.id"
        cursor.execute(f"SELECT j.id FROM {candidates} ORDER BY {order} LIMIT %s", [*params, reach])
        return [key for (key,) in cursor.fetchall()]

    def _lanes_sql(self, lanes: Sequence[Lane], reach: int) -> tuple[str, list[Any]]:
        """Return the FROM and WHERE of the first jobs ``j`` of each lane, and their parameters."""
        ready = [lane for lane in lanes if lane.priority is None]
        scheduled = [lane for lane in lanes if lane.priority is not None]
        params: list[Any] = []
        if ready:
            params += [*self._columns(ready)[:2], *([1, reach] if len(ready) > reach else []), reach]
        if scheduled:
            params += [*self._columns(scheduled), reach]
        return self._lane_sql(bool(ready), len(ready) > reach, bool(scheduled)), params

    @staticmethod
    def _columns(lanes: Sequence[Lane]) -> list[list[Any]]:
        return [list(column) for column in zip(*lanes, strict=True)]

    @cache  # noqa: B019  # there is one object
    def _lane_sql(self, ready: bool, many: bool, scheduled: bool) -> str:
        parts = []
        if ready:
            lanes = "unnest(%s::text[], %s::text[]) l(executor, queue)"
            if many:
                # Of more lanes than jobs are wanted only those are read whose first jobs are the first of all.
                first = self.lanes.jobs("j.priority, j.queued_at, j.id", scheduled=False, lane="l")
                order = "f.priority DESC, f.queued_at, f.id"
                lanes = f"(SELECT l.* FROM {lanes} CROSS JOIN LATERAL ({first}) f ORDER BY {order} LIMIT %s) l"
            parts.append((lanes, False))
        if scheduled:
            parts.append(("unnest(%s::text[], %s::text[], %s::smallint[]) l(executor, queue, priority)", True))
        columns = "j.ctid, j.id, j.priority, j.queued_at"
        selects = [
            f"SELECT j.* FROM {lanes} CROSS JOIN LATERAL ({self.lanes.jobs(columns, scheduled=by_time, lane='l')}) j "
            f"WHERE l.{NOT_PAUSED}"
            for lanes, by_time in parts
        ]
        return f"({' UNION ALL '.join(selects)}) j"

    @cache  # noqa: B019  # there is one object
    def _claim_lane(self, scheduled: bool, engine: str) -> str:
        free = f"free AS MATERIALIZED ({self.lanes.jobs('j.ctid', scheduled=scheduled)}{self.lock})"
        return self._claim_sql(free, seen="free", engine=engine)

    @cache  # noqa: B019  # there is one object
    def _claim_first(self, candidates: str, engine: str, *, excludes: bool) -> str:
        """Return the claim of the first jobs ``j`` of several lanes.

        It reads more than it locks, since those that others have locked are skipped. No index serves a CASE.
        """
        status = f"CASE WHEN {due_sql(self.now, row='j.')} THEN j.status END"
        order, besides = "j.priority DESC, j.queued_at, j.id", " AND j.id <> ALL(%s)" if excludes else ""
        return self._claim_sql(
            f"""candidate AS MATERIALIZED (
    SELECT j.ctid FROM {candidates} ORDER BY {order} LIMIT %s
), free AS MATERIALIZED (
    SELECT j.ctid FROM container_manager_containerjob j
    WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM candidate)) AND {status} = 'queued'{besides}
    ORDER BY {order} LIMIT %s{self.lock}
)""",
            seen="candidate",
            engine=engine,
        )

    def _claim_sql(self, free: str, *, seen: str, engine: str) -> str:
        # Rows are found by their place in the table: the planner has no other way, however old its statistics are.
        return f"""
WITH {free}, claimed AS (
    UPDATE container_manager_containerjob j SET {self.claim_columns(row="j.")}
    WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM free))
    RETURNING {", ".join(f"j.{name}" for name in JOB_COLUMNS)}, j.queued_at, j.launched_at
), opened AS (
    INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS})
    SELECT id, attempt, %s, executor, {engine}, '', launched_at, '', '' FROM claimed
)
SELECT seen, {", ".join(JOB_COLUMNS)}, 0 FROM (SELECT count(*) AS seen FROM {seen}) s LEFT JOIN claimed ON TRUE
ORDER BY {ORDER}
"""

    @cache  # noqa: B019  # there is one object
    def _finish_sql(self, skip_locked: bool) -> str:
        # An attempt is closed with its job, or alone if the job has left it (it was cancelled). No index serves a CASE:
        # the planner takes a worker's open attempts, or running jobs, for one row and would then use a nested loop over
        # them; so it must use the keys.
        changes = assignments_by_target(
            ContainerJob, _ENDS, self.dialect, target_sql="o.status", now=self.now, row="j."
        ) | {"status": "o.status"}
        columns = self.finish_columns(changes, exit_code="o.exit_code", reason="o.reason", message="o.message")
        free, its_rows = "outcome", ""
        if skip_locked:
            # Only where both rows are free: what is decided by one of them may be about to change.
            free, its_rows = "free", _FREE
        return f"""
WITH outcome AS MATERIALIZED (
    SELECT job_id, number, status, COALESCE(reason, '') AS reason, COALESCE(message, '') AS message,
        result::jsonb AS result, exit_code, signal, peak_memory_bytes, cpu_seconds
    FROM set_config('lock_timeout', '{_LOCK_MILLISECONDS}', true), unnest(
        %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::int[], %s::int[], %s::int[], %s::bigint[], %s::float8[]
    ) AS o(job_id, status, reason, message, result, number, exit_code, signal, peak_memory_bytes, cpu_seconds)
){its_rows}, done AS (
    UPDATE container_manager_containerjob j SET {columns}
    FROM {free} o WHERE j.id = o.job_id AND o.status IS NOT NULL
        AND CASE WHEN j.status = 'running' AND j.attempt = o.number THEN j.worker END = %s
    RETURNING j.id
), closed AS (
    UPDATE container_manager_jobattempt a SET finished_at = {self.now}, exit_code = o.exit_code, signal = o.signal,
        reason = o.reason, message = o.message, peak_memory_bytes = o.peak_memory_bytes, cpu_seconds = o.cpu_seconds,
        result = o.result
    FROM {free} o WHERE a.job_id = o.job_id AND a.number = o.number
        AND CASE WHEN a.finished_at IS NULL THEN a.worker END = %s
        AND (o.job_id IN (SELECT id FROM done) OR NOT EXISTS (
            SELECT FROM container_manager_containerjob j
            WHERE j.id = o.job_id AND CASE WHEN j.status = 'running' THEN j.attempt END = o.number))
    RETURNING a.job_id, a.number
)
SELECT job_id, number, job_id IN (SELECT id FROM done), (job_id, number) IN (SELECT job_id, number FROM closed)
FROM outcome
"""

    @cached_property
    def _retry_sql(self) -> str:
        due = f"{self.now} + make_interval(secs => r.seconds)"
        return f"""
UPDATE container_manager_containerjob j SET {self.retry_columns(due=due, counts="r.counts", row="j.")}
FROM unnest(%s::uuid[], %s::float8[], %s::int[]) AS r(id, seconds, counts) WHERE j.id = r.id AND j.status = 'failed'
"""


# Sorted, so that all rows are locked before any is changed: one that the statement itself has changed counts as locked.
_FREE = """, free AS MATERIALIZED (
    SELECT * FROM (
        SELECT o.* FROM outcome o
        JOIN container_manager_jobattempt a ON a.job_id = o.job_id AND a.number = o.number
        JOIN container_manager_containerjob j ON j.id = o.job_id
        FOR NO KEY UPDATE OF a, j SKIP LOCKED
    ) AS locked ORDER BY number
)"""


@contextmanager
def _unprepared(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Prepare no statement meanwhile: behind a pooler its name may be taken."""
    connection.ensure_connection()
    driver = connection.connection
    # psycopg2 prepares none.
    before = getattr(driver, "prepare_threshold", None)
    if before is not None:
        driver.prepare_threshold = None
    try:
        yield
    finally:
        if before is not None:
            driver.prepare_threshold = before


def _array(values: Sequence[str | float | None]) -> str | None:
    """Return PostgreSQL's text for an array of numbers or plain words; None if all are None."""
    if values.count(None) == len(values):
        return None
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"

"""PostgreSQL: a batch is claimed, or finished, in one statement."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from math import ceil
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob, JobStatus
from ...statemachine.assignments import assignments_by_target
from ..values import JOB_COLUMNS, Outcome
from .statements import ATTEMPT_COLUMNS, Keys, StoreSQL

_ENDS = (JobStatus.COMPLETED, JobStatus.FAILED)
_OUTCOME_NUMBERS = ("attempt", "exit_code", "signal", "peak_memory_bytes", "cpu_seconds")


class PostgreSQLStore(StoreSQL):
    vendor = "postgresql"
    now = "statement_timestamp()"
    finishes_in_one_statement = True
    lock = " FOR UPDATE SKIP LOCKED"

    def after(self, seconds: str) -> str:
        return f"statement_timestamp() + make_interval(secs => {seconds})"

    def seconds_since(self, moment: str) -> str:
        return f"EXTRACT(EPOCH FROM statement_timestamp() - {moment})"

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        return (
            f"SET idle_in_transaction_session_timeout = {ceil(idle_seconds * 1000)}",
            # For prepared statements: planning takes as long as claiming or finishing a job.
            "SET plan_cache_mode = force_generic_plan",
            # A cached plan must not be the one for a small table. (Without a usable index that plan has a cost that
            # would trigger JIT compilation.)
            "SET enable_seqscan = off",
            "SET jit = off",
        )

    def is_pooled(self, connection: BaseDatabaseWrapper) -> bool:
        # For requests to cancel, a server tells its clients the process that serves them. A pooler has many for each
        # client, so it has to tell something else. The setting is what Django asks for behind a pooler.
        if connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
            return True
        with _unprepared(connection), connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()", [])
            (served_by,) = cursor.fetchone()
        return bool(connection.connection.info.backend_pid != served_by)

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT INTO {rest} ON CONFLICT DO NOTHING"

    def claim(
        self, connection: BaseDatabaseWrapper, worker: str, candidates: tuple[str, list[Any]]
    ) -> Sequence[Sequence[Any]]:
        select, params = candidates
        with connection.cursor() as cursor:
            cursor.execute(self._claim_sql(select), [*params, worker, worker, worker])
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows

    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome]
    ) -> tuple[set[uuid.UUID], Keys]:
        # The driver converts each member of a list by itself, which takes longer than all the rest. So members that
        # need no quoting are passed as one text, and a column without values as NULL.
        columns: list[Any] = [_array([o.job_id.hex for o in outcomes]), _array([o.status for o in outcomes])]
        for name in ("reason", "message"):
            texts = [getattr(o, name) for o in outcomes]
            columns.append(texts if any(texts) else None)
        columns += [_array([getattr(o, name) for o in outcomes]) for name in _OUTCOME_NUMBERS]
        with connection.cursor() as cursor:
            cursor.execute(self._finish_sql, [*columns, worker, worker, worker])
            fates = cursor.fetchall()
            done = {job for job, _, is_done, _ in fates if is_done}
            closed = {(job, number) for job, number, _, is_closed in fates if is_closed}
            retries = [o for o in outcomes if o.retry_after_seconds is not None and o.job_id in done]
            if retries:
                cursor.execute(
                    self._retry_sql, [worker, [o.job_id for o in retries], [o.retry_after_seconds for o in retries]]
                )
        return done, closed

    @cache  # noqa: B019  # there is one object
    def _claim_sql(self, select: str) -> str:
        # The jobs are named by an array, so that the planner uses the primary key however old its statistics are.
        return f"""
WITH candidate AS MATERIALIZED ({select}{self.lock}), claimed AS (
    UPDATE container_manager_containerjob j SET {self.claim_columns(row="j.")}
    WHERE j.id = ANY(ARRAY(SELECT id FROM candidate))
    RETURNING {", ".join(f"j.{name}" for name in JOB_COLUMNS)}, j.queued_at, j.launched_at
), opened AS (
    INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS})
    SELECT id, attempt, %s, executor, '', launched_at, '', '' FROM claimed
)
SELECT {", ".join(JOB_COLUMNS)}, 0 FROM claimed ORDER BY priority DESC, queued_at, id
"""

    @cached_property
    def _finish_sql(self) -> str:
        # An attempt is closed with its job, or alone if the job has left it (it was cancelled). No index serves a CASE:
        # the planner takes a worker's open attempts, or running jobs, for one row and would then use a nested loop over
        # them; so it must use the keys.
        changes = assignments_by_target(
            ContainerJob, _ENDS, self.dialect, target_sql="o.status", now=self.now, row="j."
        ) | {"status": "o.status"}
        columns = self.finish_columns(changes, exit_code="o.exit_code", reason="o.reason", message="o.message")
        return f"""
WITH outcome AS MATERIALIZED (
    SELECT job_id, number, status, COALESCE(reason, '') AS reason, COALESCE(message, '') AS message, exit_code, signal,
        peak_memory_bytes, cpu_seconds
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::int[], %s::bigint[],
        %s::float8[]) AS o(job_id, status, reason, message, number, exit_code, signal, peak_memory_bytes, cpu_seconds)
), done AS (
    UPDATE container_manager_containerjob j SET {columns}
    FROM outcome o WHERE j.id = o.job_id AND o.status IS NOT NULL
        AND CASE WHEN j.status = 'running' AND j.attempt = o.number THEN j.worker END = %s
    RETURNING j.id
), closed AS (
    UPDATE container_manager_jobattempt a SET finished_at = {self.now}, exit_code = o.exit_code, signal = o.signal,
        reason = o.reason, message = o.message, peak_memory_bytes = o.peak_memory_bytes, cpu_seconds = o.cpu_seconds
    FROM outcome o WHERE a.job_id = o.job_id AND a.number = o.number
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
UPDATE container_manager_containerjob j SET {self.retry_columns(due=due, row="j.")}
FROM unnest(%s::uuid[], %s::float8[]) AS r(id, seconds) WHERE j.id = r.id AND j.status = 'failed'
"""


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
    if all(value is None for value in values):
        return None
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"

"""PostgreSQL: a batch is claimed, or finished, in one statement."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache, cached_property
from math import ceil
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob, JobStatus
from ...statemachine.assignments import assignments_by_target
from ..values import JOB_COLUMNS, Outcome
from .lanes import NOT_PAUSED, ORDER, Lane, Wanted, only_sql
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
    ) -> tuple[list[Sequence[Any]], int]:
        if wanted.only is not None:
            candidates, params = only_sql(wanted, self.now)
            sql, params = self._claim_first(candidates), [wanted.only, *params, reach, limit]
        elif len(lanes) == 1:
            sql, params = (
                self._claim_lane(lanes[0].priority is not None),
                [lanes[0].queue, *(value for value in lanes[0] if value is not None), limit],
            )
        else:
            candidates, params = self._lanes_sql(lanes, reach)
            sql, params = self._claim_first(candidates), [*params, reach, limit]
        with connection.cursor() as cursor:
            cursor.execute(sql, [*params, worker, worker, worker])
            rows: list[Sequence[Any]] = cursor.fetchall()
        # One row at least, which says how many were seen.
        return [row[1:] for row in rows if row[1] is not None], rows[0][0]

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
    def _claim_lane(self, scheduled: bool) -> str:
        return self._claim_sql(
            f"free AS MATERIALIZED ({self.lanes.jobs('j.ctid', scheduled=scheduled)}{self.lock})", seen="free"
        )

    @cache  # noqa: B019  # there is one object
    def _claim_first(self, candidates: str) -> str:
        """Return the claim of the first jobs ``j`` of several lanes.

        It reads more than it locks, since those that others have locked are skipped. No index serves a CASE.
        """
        status = f"CASE WHEN j.scheduled_for IS NULL OR j.scheduled_for <= {self.now} THEN j.status END"
        order = "j.priority DESC, j.queued_at, j.id"
        return self._claim_sql(
            f"""candidate AS MATERIALIZED (
    SELECT j.ctid FROM {candidates} ORDER BY {order} LIMIT %s
), free AS MATERIALIZED (
    SELECT j.ctid FROM container_manager_containerjob j
    WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM candidate)) AND {status} = 'queued'
    ORDER BY {order} LIMIT %s{self.lock}
)""",
            seen="candidate",
        )

    def _claim_sql(self, free: str, *, seen: str) -> str:
        # Rows are found by their place in the table: the planner has no other way, however old its statistics are.
        return f"""
WITH {free}, claimed AS (
    UPDATE container_manager_containerjob j SET {self.claim_columns(row="j.")}
    WHERE j.ctid = ANY(ARRAY(SELECT ctid FROM free))
    RETURNING {", ".join(f"j.{name}" for name in JOB_COLUMNS)}, j.queued_at, j.launched_at
), opened AS (
    INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS})
    SELECT id, attempt, %s, executor, '', launched_at, '', '' FROM claimed
)
SELECT seen, {", ".join(JOB_COLUMNS)}, 0 FROM (SELECT count(*) AS seen FROM {seen}) s LEFT JOIN claimed ON TRUE
ORDER BY {ORDER}
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


def _array(values: Sequence[str | float | None]) -> str | None:
    """Return PostgreSQL's text for an array of numbers or plain words; None if all are None."""
    if all(value is None for value in values):
        return None
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"

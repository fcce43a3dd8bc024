"""PostgreSQL: a batch is claimed, or finished, in one statement."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from ...statemachine.triggers.dialect import VERSIONS
from ..values import JOB_COLUMNS, Outcome
from .statements import ATTEMPT_COLUMNS, CLAIM, Keys, StoreSQL

_OUTCOME_NUMBERS = ("attempt", "exit_code", "signal", "peak_memory_bytes", "cpu_seconds")


class PostgreSQLStore(StoreSQL):
    vendor = "postgresql"
    now = "statement_timestamp()"
    finishes_in_one_statement = True
    version = f"floor(random() * {VERSIONS})"
    lock = " FOR UPDATE SKIP LOCKED"

    def after(self, seconds: str) -> str:
        return f"statement_timestamp() + make_interval(secs => {seconds})"

    def seconds_since(self, moment: str) -> str:
        return f"EXTRACT(EPOCH FROM statement_timestamp() - {moment})"

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        return (
            f"SET idle_in_transaction_session_timeout = {ceil(idle_seconds * 1000)}",
            # Where statements are prepared: to plan one anew takes as long as to claim or finish a job.
            "SET plan_cache_mode = force_generic_plan",
            # A plan that is kept must not be the one that suits a table while it is small. (Where no index serves, that
            # looks so dear that it would be compiled.)
            "SET enable_seqscan = off",
            "SET jit = off",
        )

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT INTO {rest} ON CONFLICT DO NOTHING"

    def claim(
        self, connection: BaseDatabaseWrapper, worker: str, candidates: tuple[str, list[Any]]
    ) -> Sequence[Sequence[Any]]:
        select, params = candidates
        with connection.cursor() as cursor:
            cursor.execute(_postgresql_claim(select), [*params, worker, worker, worker])
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows

    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome]
    ) -> tuple[set[uuid.UUID], Keys]:
        # The driver turns each member of a list into text on its own, which takes longer than all the rest: so what
        # needs no quoting goes as one text, and what nobody has not at all.
        columns: list[Any] = [_array([o.job_id.hex for o in outcomes]), _array([o.status for o in outcomes])]
        for name in ("reason", "message"):
            texts = [getattr(o, name) for o in outcomes]
            columns.append(texts if any(texts) else None)
        columns += [_array([getattr(o, name) for o in outcomes]) for name in _OUTCOME_NUMBERS]
        with connection.cursor() as cursor:
            cursor.execute(_POSTGRESQL_FINISH, [*columns, worker, worker, worker])
            exceptions = cursor.fetchall()
            done = {o.job_id for o in outcomes} - {key for key, _, is_done, _ in exceptions if not is_done}
            retries = [o for o in outcomes if o.retry_after_seconds is not None and o.job_id in done]
            if retries:
                cursor.execute(
                    _POSTGRESQL_RETRY,
                    [worker, [o.job_id for o in retries], [o.retry_after_seconds for o in retries]],
                )
        closed = {(o.job_id, o.attempt) for o in outcomes}
        return done, closed - {(key, number) for key, number, _, is_closed in exceptions if not is_closed}


def _array(values: Sequence[str | float | None]) -> str | None:
    """Return PostgreSQL's text for an array of numbers or plain words; None where all are."""
    if all(value is None for value in values):
        return None
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


_OF_POSTGRESQL = {"now": PostgreSQLStore.now, "version": PostgreSQLStore.version}


@cache
def _postgresql_claim(select: str) -> str:
    # The jobs are named by an array, so that the planner finds them by primary key however old its statistics are.
    return f"""
WITH candidate AS MATERIALIZED ({select}{PostgreSQLStore.lock}), claimed AS (
    UPDATE container_manager_containerjob j SET {CLAIM.format(job="j.", **_OF_POSTGRESQL)}
    WHERE j.id = ANY(ARRAY(SELECT id FROM candidate))
    RETURNING {", ".join(f"j.{name}" for name in JOB_COLUMNS)}, j.queued_at, j.launched_at
), opened AS (
    INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS})
    SELECT id, attempt, %s, executor, '', launched_at, '', '' FROM claimed
)
SELECT {", ".join(JOB_COLUMNS)}, 0 FROM claimed ORDER BY priority DESC, queued_at, id
"""


# An attempt is closed with its job, or alone where the job was moved on by others (cancelled). The answer names only
# what was not both done and closed. No index serves a CASE, which keeps the planner to the keys: it takes a worker's
# open attempts, or running jobs, for one row, and then compares each with each.
_POSTGRESQL_FINISH = """
WITH outcome AS MATERIALIZED (
    SELECT job_id, number, status, COALESCE(reason, '') AS reason, COALESCE(message, '') AS message, exit_code, signal,
        peak_memory_bytes, cpu_seconds
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::int[], %s::bigint[],
        %s::float8[]) AS o(job_id, status, reason, message, number, exit_code, signal, peak_memory_bytes, cpu_seconds)
), done AS (
    UPDATE container_manager_containerjob j SET status = o.status,
        completed_at = CASE WHEN o.status = 'completed' THEN {now} END, exit_code = o.exit_code,
        failure_reason = o.reason, last_error = o.message, worker = '', status_version = {version},
        status_changed_at = {now}, status_changed_by = %s, status_changed_reason = o.reason
    FROM outcome o WHERE j.id = o.job_id AND o.status IS NOT NULL
        AND CASE WHEN j.status = 'running' AND j.attempt = o.number THEN j.worker END = %s
    RETURNING j.id
), closed AS (
    UPDATE container_manager_jobattempt a SET finished_at = {now}, exit_code = o.exit_code, signal = o.signal,
        reason = o.reason, message = o.message, peak_memory_bytes = o.peak_memory_bytes, cpu_seconds = o.cpu_seconds
    FROM outcome o WHERE a.job_id = o.job_id AND a.number = o.number
        AND CASE WHEN a.finished_at IS NULL THEN a.worker END = %s
        AND (o.job_id IN (SELECT id FROM done) OR NOT EXISTS (
            SELECT FROM container_manager_containerjob j
            WHERE j.id = o.job_id AND CASE WHEN j.status = 'running' THEN j.attempt END = o.number))
    RETURNING a.job_id, a.number
), fate AS (
    SELECT job_id, number, job_id IN (SELECT id FROM done) AS is_done,
        (job_id, number) IN (SELECT job_id, number FROM closed) AS is_closed FROM outcome
)
SELECT * FROM fate WHERE NOT (is_done AND is_closed)
""".format(**_OF_POSTGRESQL)
_POSTGRESQL_RETRY = """
UPDATE container_manager_containerjob j SET status = 'retrying', retry_count = j.retry_count + 1,
    scheduled_for = {now} + make_interval(secs => r.seconds), status_version = {version},
    status_changed_at = {now}, status_changed_by = %s
FROM unnest(%s::uuid[], %s::float8[]) AS r(id, seconds) WHERE j.id = r.id AND j.status = 'failed'
""".format(**_OF_POSTGRESQL)

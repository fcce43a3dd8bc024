"""Claim jobs that are due."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from django.db import connections

from ..statemachine.deadlocks import retries_deadlocks
from .moves import announce
from .sql import store_sql
from .values import ClaimedJob, claimed_job


@retries_deadlocks
def claim(
    *,
    worker: str,
    executors: Sequence[str],
    engines: Mapping[str, str] | None = None,
    queues: Sequence[str] | None = None,
    only: uuid.UUID | None = None,
    limit: int,
    using: str,
) -> list[ClaimedJob]:
    """Move up to ``limit`` due jobs from queued to running for this worker, highest priority first.

    ``engines``: by executor, the identity of the engine that will have the attempts, if they survive their worker.
    ``queues``: None for all. ``only``: just this job. Rows locked by other transactions are skipped (SKIP LOCKED).
    """
    if not executors or not (queues is None or queues):
        return []
    connection = connections[using]
    dialect = store_sql(connection)
    candidates = dialect.candidates(connection, executors, queues, only, limit)
    rows = dialect.claim(connection, worker, candidates, engines or {})
    jobs = [claimed_job(row) for row in rows]
    announce(lambda: [(job.id, "queued", "running", "") for job in jobs], worker, using)
    return jobs


def is_due(
    *, executors: Sequence[str], queues: Sequence[str] | None = None, only: uuid.UUID | None = None, using: str
) -> bool:
    """Tell whether a job is due that `claim` would return, or another worker is claiming at this moment."""
    if not executors or not (queues is None or queues):
        return False
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(*store_sql(connection).candidates(connection, executors, queues, only, 1))
        return cursor.fetchone() is not None

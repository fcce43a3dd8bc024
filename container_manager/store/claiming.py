"""Claim jobs that are due."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from django.db import connections

from ..statemachine.deadlocks import retries_deadlocks
from .moves import announce
from .sql import store_sql
from .sql.lanes import Wanted
from .values import ClaimedJob, claimed_job

# The slots of a few other workers that claim at the same moment.
_ALSO_CLAIMED = 16
_FURTHER = 8


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
    dialect, wanted = store_sql(connection), Wanted(executors, queues, only)
    jobs: list[ClaimedJob] = []
    # Looks further than it takes, for others may have locked the first ones; and further again if they have many.
    reach = 2 * limit + _ALSO_CLAIMED
    while True:
        rows, seen = dialect.claim(
            connection, worker, wanted, limit=limit - len(jobs), reach=reach, engines=engines or {}
        )
        jobs += [claimed_job(row) for row in rows]
        if len(jobs) == limit or seen < reach:
            break
        reach *= _FURTHER
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
        return bool(store_sql(connection).candidates(cursor, Wanted(executors, queues, only), 1))

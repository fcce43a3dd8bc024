"""Claim jobs that are due."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from django.db import connections

from ..statemachine.deadlocks import retries_deadlocks
from .moves import announce
from .sql import store_sql
from .sql.lanes import Lane, Wanted
from .values import ClaimedJob, claimed_job

# Others may have locked the first jobs, so a claim looks further than it takes: past twice as many, and these. If they
# have locked all of them, it looks that many times further.
_OTHERS = 4
_FURTHER = 8


@retries_deadlocks
def claim(
    *,
    worker: str,
    executors: Sequence[str],
    queues: Sequence[str] | None = None,
    only: uuid.UUID | None = None,
    lanes: Sequence[Lane] | None = None,
    limit: int,
    using: str,
) -> list[ClaimedJob]:
    """Move up to ``limit`` due jobs from queued to running for this worker, highest priority first.

    ``queues``: None for all. ``only``: just this job. ``lanes``: where to look for them; by default in all `due_lanes`.
    Rows locked by other transactions are skipped (SKIP LOCKED).
    """
    if not executors or not (queues is None or queues):
        return []
    connection = connections[using]
    dialect, wanted = store_sql(connection), Wanted(executors, queues, only)
    if lanes is None:
        lanes = () if only is not None else due_lanes(executors=executors, queues=queues, using=using)
    if not lanes and only is None:
        return []
    jobs: list[ClaimedJob] = []
    reach = 2 * limit + _OTHERS
    while True:
        rows, seen = dialect.claim(connection, worker, wanted, lanes, limit=limit - len(jobs), reach=reach)
        jobs += [claimed_job(row) for row in rows]
        if len(jobs) == limit or seen < reach:
            break
        reach *= _FURTHER
    announce(lambda: [(job.id, "queued", "running", "") for job in jobs], worker, using)
    return jobs


def due_lanes(*, executors: Sequence[str], queues: Sequence[str] | None = None, using: str) -> list[Lane]:
    """Return where the due jobs of these executors and queues stand (None: of all), but those of paused queues.

    It costs a look per lane, and none per job. Some of the lanes may be empty.
    """
    if not executors or not (queues is None or queues):
        return []
    with connections[using].cursor() as cursor:
        return store_sql(connections[using]).due_lanes(cursor, Wanted(executors, queues))


def queued_executors(*, using: str) -> list[str]:
    """Return the executors of all queued jobs, with a look at each of them and not at their jobs."""
    with connections[using].cursor() as cursor:
        return store_sql(connections[using]).queued_executors(cursor)


def is_due(
    *, executors: Sequence[str], queues: Sequence[str] | None = None, only: uuid.UUID | None = None, using: str
) -> bool:
    """Tell whether a job is due that `claim` would return, or another worker is claiming at this moment."""
    if not executors or not (queues is None or queues):
        return False
    with connections[using].cursor() as cursor:
        return store_sql(connections[using]).is_due(cursor, Wanted(executors, queues, only))

"""Claim jobs that are due."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any

from django.db import connections, transaction

from ..models import ContainerJob, JobStatus
from ..statemachine.deadlocks import retries_deadlocks
from .isolation import Refused, is_refusal, isolated
from .moves import announce
from .sql import store_sql
from .values import ClaimedJob, claimed_job


def claim(
    *,
    worker: str,
    executors: Sequence[str],
    queues: Sequence[str] | None = None,
    only: uuid.UUID | None = None,
    besides: Collection[uuid.UUID] = (),
    refused: Refused[uuid.UUID] | None = None,
    limit: int,
    using: str,
) -> list[ClaimedJob]:
    """Move up to ``limit`` due jobs from queued to running for this worker, highest priority first.

    ``queues``: None for all. ``only``: just this job. ``besides``: none of these. Rows locked by other transactions are
    skipped (SKIP LOCKED). ``refused`` is told of a job whose claim the database refuses: it stays queued, and the
    others are claimed; without ``refused`` the error is raised, and nothing is claimed.
    """
    if not executors or not (queues is None or queues):
        return []
    connection = connections[using]

    def candidates(only: uuid.UUID | None, limit: int) -> tuple[str, list[Any]]:
        return store_sql(connection).candidates(connection, executors, queues, only, limit, besides=besides)

    def each(keys: Sequence[uuid.UUID]) -> list[ClaimedJob]:
        return [job for key in keys for job in _claim(candidates(key, 1), worker=worker, using=using)]

    try:
        return _claim(candidates(only, limit), worker=worker, using=using)
    except Exception as error:
        if refused is None or not is_refusal(error, using=using):
            raise
    with connection.cursor() as cursor:
        cursor.execute(*candidates(only, limit))
        keys = [key if isinstance(key, uuid.UUID) else uuid.UUID(key) for (key,) in cursor.fetchall()]
    return [job for key in keys for job in isolated(each, [key], refused=refused, using=using)]


@retries_deadlocks
def _claim(candidates: tuple[str, list[Any]], *, worker: str, using: str) -> list[ClaimedJob]:
    connection = connections[using]
    rows = store_sql(connection).claim(connection, worker, candidates)
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


def note_refused_claim(job: uuid.UUID, message: str, *, using: str) -> None:
    """Write into a queued job's row why its claim was refused, for whoever looks at it; the next claim clears it."""
    queued = ContainerJob.objects.using(using).filter(pk=job, status=JobStatus.QUEUED)
    try:
        with transaction.atomic(using=using):
            if queued.select_for_update(skip_locked=True).values_list("pk").first():
                queued.update(last_error=f"The database refuses the claim: {message}")
    except Exception as error:
        # Whatever refuses the claim may refuse this too: the log has it.
        if not is_refusal(error, using=using):
            raise

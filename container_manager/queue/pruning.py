"""Prune: delete jobs that finished long ago."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from django.db import router

from ..models import FINISHED_STATUSES, ContainerJob
from ..store import PRUNE_BATCH, Pruning


def prune_jobs(
    *,
    before: datetime,
    statuses: Collection[str] = FINISHED_STATUSES,
    limit: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    using: str | None = None,
) -> int:
    """Delete jobs that have had one of these statuses since before a time; return how many.

    In batches, each in a transaction of its own, children first and by primary key, so that workers are not blocked.
    What other models refer to is deleted as their ``on_delete`` says. A job with an open attempt stays, and so does one
    that something protects: the log says what does.
    ``progress`` is told after each batch how many are deleted, and of how many: None, since nobody knows. Raises
    ValueError for a status that is not finished.
    """
    if odd := sorted(set(statuses) - set(FINISHED_STATUSES)):
        raise ValueError(f"Only finished jobs can be pruned, not {', '.join(odd)}.")
    pruning = Pruning(statuses=statuses, using=using or router.db_for_write(ContainerJob))
    deleted = 0
    while limit is None or deleted < limit:
        found, there_is_more = pruning.delete(before=before, size=PRUNE_BATCH if limit is None else limit - deleted)
        deleted += found
        if progress:
            progress(deleted, None)
        if not there_is_more:
            break
    return deleted

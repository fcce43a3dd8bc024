"""Prune: delete jobs that finished long ago, with their attempts, output and journal."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.db import router, transaction

from ..models import FINISHED_STATUSES, ContainerJob, JobAttempt, JobLog, JobTransition
from ..statemachine.deadlocks import retries_deadlocks

PRUNE_BATCH = 500


def prune_jobs(
    *,
    before: datetime,
    statuses: Collection[str] = FINISHED_STATUSES,
    limit: int | None = None,
    using: str | None = None,
) -> int:
    """Delete jobs that have had one of these statuses since before a time; return how many.

    In batches, each in a transaction of its own, children first and by primary key, so that workers are not blocked.
    A job with an open attempt stays. Raises ValueError for a status that is not finished.
    """
    if odd := sorted(set(statuses) - set(FINISHED_STATUSES)):
        raise ValueError(f"Only finished jobs can be pruned, not {', '.join(odd)}.")
    using = using or router.db_for_write(ContainerJob)
    deleted = 0
    while limit is None or deleted < limit:
        size = PRUNE_BATCH if limit is None else min(PRUNE_BATCH, limit - deleted)
        if not (found := _prune_batch(before, statuses, size, using=using)):
            break
        deleted += found
    return deleted


@retries_deadlocks
def _prune_batch(before: datetime, statuses: Collection[str], size: int, *, using: str) -> int:
    old = ContainerJob.objects.using(using).filter(status__in=statuses, status_changed_at__lt=before)
    keys = list(old.exclude(attempts__finished_at=None, attempts__isnull=False).values_list("pk", flat=True)[:size])
    with transaction.atomic(using=using):
        # A failed job may have been retried since the first query. By key alone, and skipping locked rows: the index of
        # finished jobs would give the rows in another order, which ends in a deadlock.
        jobs = ContainerJob.objects.using(using).filter(pk__in=keys).order_by("pk").select_for_update(skip_locked=True)
        keys = [
            pk
            for pk, status, at in jobs.values_list("pk", "status", "status_changed_at")
            if status in statuses and at is not None and at < before
        ]
        attempts = list(JobAttempt.objects.using(using).filter(job__in=keys).values_list("pk", flat=True))
        for model, condition in (
            (JobLog, {"attempt__in": attempts}),
            (JobAttempt, {"pk__in": attempts}),
            (JobTransition, {"job__in": keys}),
            (ContainerJob, {"pk__in": keys}),
        ):
            rows = model._default_manager.using(using).filter(**condition)
            # Without Django's collector: all rows that depend on these are deleted here.
            rows._raw_delete(using)
    return len(keys)

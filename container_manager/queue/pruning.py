"""Delete jobs that ended long ago, with all that belongs to them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.db import DEFAULT_DB_ALIAS, transaction

from ..models import ContainerJob, JobAttempt, JobLog, JobStatus, JobTransition
from ..statemachine.deadlocks import retries_deadlocks

FINISHED = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
PRUNE_BATCH = 500


def prune_jobs(
    *, before: datetime, statuses: Collection[str] = FINISHED, limit: int | None = None, using: str = DEFAULT_DB_ALIAS
) -> int:
    """Delete jobs in these statuses that came to them before a time; return how many.

    In batches, each a transaction of its own, children first and by primary key, so that workers are not held up.
    A job with an open attempt stays. Raises ValueError for a status that is not an end.
    """
    if odd := sorted(set(statuses) - set(FINISHED)):
        raise ValueError(f"Only finished jobs can be pruned, not {', '.join(odd)}.")
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
        # A failed job may have been tried again since it was looked at. By key alone, and past rows that others hold:
        # by the index of what has finished it would meet them in another order, which ends in a deadlock.
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
            # What belongs to these rows is deleted here, so nothing need be collected first.
            rows._raw_delete(using)
    return len(keys)

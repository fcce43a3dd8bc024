"""Queue the retries that are due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from uuid import UUID

from ..models import ContainerJob, JobStatus
from .clock import database_now
from .isolation import OnRefused, isolated

_BATCH = 1000


def promote_retries(*, besides: Collection[UUID] = (), refused: OnRefused[UUID] | None = None, using: str) -> int:
    """Move due jobs from retrying to queued, but none of ``besides``; return how many.

    Safe when several workers do it at once. ``refused`` is told of a job whose transition the database refuses: it
    stays as it is, and the others are queued; without ``refused`` the error is raised.
    """
    due = ContainerJob.objects.using(using).retries_due().exclude(pk__in=besides).order_by("scheduled_for", "pk")
    keys = list(due.values_list("pk", flat=True)[:_BATCH])
    return len(isolated(partial(_promote, using=using), keys, refused=refused, using=using))


def _promote(keys: Sequence[UUID], *, using: str) -> Sequence[int]:
    if not keys:
        return []
    # By key, and skipping locked rows: without waiting there is no deadlock.
    still_due = ContainerJob.objects.using(using).filter(pk__in=keys).select_for_update(skip_locked=True)
    # Jobs are claimed in the order of that time, so it is by the clock that all workers have in common.
    moved = still_due.transition_to(JobStatus.QUEUED, reason="retry is due", at=database_now(using=using))
    return range(moved.changed)

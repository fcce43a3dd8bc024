"""Queue the retries that are due."""

from __future__ import annotations

from ..models import ContainerJob, JobStatus

_BATCH = 1000


def promote_retries(*, using: str) -> int:
    """Move due jobs from retrying to queued; return how many. Safe when several workers do it at once."""
    due = ContainerJob.objects.using(using).retries_due().order_by("scheduled_for", "pk")[:_BATCH]
    keys = list(due.values_list("pk", flat=True))
    if not keys:
        return 0
    # By key, and skipping locked rows: without waiting there is no deadlock.
    still_due = ContainerJob.objects.using(using).filter(pk__in=keys).select_for_update(skip_locked=True)
    return still_due.transition_to(JobStatus.QUEUED, reason="retry is due").changed

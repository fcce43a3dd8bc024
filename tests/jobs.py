"""Jobs in any status, for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from container_manager.models import ContainerJob

THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STATUSES = tuple(ContainerJob.Status.values)
LEGAL = frozenset((s, t) for s, targets in ContainerJob.VALID_TRANSITIONS.items() for t in targets)
PAIRS = [(source, target) for source in STATUSES for target in STATUSES]


def columns_for(status: str) -> dict[str, Any]:
    """Return the timestamps that a job with this status must have."""
    started = status in ("running", "failed", "retrying", "completed")
    return {
        "queued_at": THEN if status == "queued" else None,
        "launched_at": THEN if started else None,
        "completed_at": THEN if status == "completed" else None,
    }


def job_in(status: str, **fields: Any) -> ContainerJob:
    return ContainerJob.objects.create(command="true", status=status, **columns_for(status), **fields)


def journal_of(job: ContainerJob) -> list[tuple[str, str]]:
    return list(job.transitions.values_list("from_status", "to_status"))


def row_of(job: ContainerJob) -> dict[str, Any]:
    return ContainerJob.objects.filter(pk=job.pk).values().get()

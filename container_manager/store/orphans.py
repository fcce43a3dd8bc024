"""Tell which of the attempts that an engine holds are orphans."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from ..models import JobAttempt

_BATCH = 500


def attempts_over(keys: Collection[tuple[uuid.UUID, int]], *, using: str) -> dict[tuple[uuid.UUID, int], bool]:
    """Return those of the attempts (job id, number) that are closed or unknown, and whether each failed."""
    found: dict[tuple[uuid.UUID, int], bool] = dict.fromkeys(keys, False)
    jobs = sorted({job for job, _ in keys})
    for start in range(0, len(jobs), _BATCH):
        rows = JobAttempt.objects.using(using).filter(job__in=jobs[start : start + _BATCH])
        for job, number, finished_at, reason in rows.values_list("job", "number", "finished_at", "reason"):
            if finished_at is None:
                found.pop((job, number), None)
            elif (job, number) in found:
                found[job, number] = bool(reason)
    return found

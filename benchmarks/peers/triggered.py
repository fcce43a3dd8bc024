"""django-pgtrigger's FSM trigger, on PostgreSQL only."""

from __future__ import annotations

from typing import Any

import pgtrigger
from django.utils import timezone

from container_manager.models import JOB_TRANSITIONS, JobStatus

from .columns import JobColumns
from .way import CHANGED, TUNED, Way


class TriggeredJob(JobColumns):
    class Meta(JobColumns.Meta):
        triggers = [
            pgtrigger.FSM(
                name="transitions",
                field="status",
                transitions=[
                    (str(source), str(target)) for source, targets in JOB_TRANSITIONS.items() for target in targets
                ],
            )
        ]


def documented(job: Any) -> None:
    """Assign and save: the trigger is all there is."""
    job.status, job.launched_at = JobStatus.RUNNING, timezone.now()
    job.save()


def tuned(job: Any) -> None:
    job.status, job.launched_at = JobStatus.RUNNING, timezone.now()
    job.save(update_fields=CHANGED)


WAYS = (
    Way(name="django-pgtrigger, save()", model=TriggeredJob, run=documented),
    Way(name=f"django-pgtrigger, {TUNED}", model=TriggeredJob, run=tuned, tuned=True),
)

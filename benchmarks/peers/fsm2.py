"""django-fsm-2, without and with its ConcurrentTransitionMixin."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from django_fsm import ConcurrentTransitionMixin, FSMField, transition

from container_manager.models import JobStatus

from .columns import JobColumns
from .way import CHANGED, TUNED, Way


class FsmJob(JobColumns):
    status = FSMField(max_length=16, choices=JobStatus.choices, default=JobStatus.PENDING)

    @transition(field=status, source=JobStatus.QUEUED, target=JobStatus.RUNNING)
    def start(self) -> None:
        self.launched_at = timezone.now()


class ConcurrentFsmJob(ConcurrentTransitionMixin, JobColumns):
    status = FSMField(max_length=16, choices=JobStatus.choices, default=JobStatus.PENDING)

    @transition(field=status, source=JobStatus.QUEUED, target=JobStatus.RUNNING)
    def start(self) -> None:
        self.launched_at = timezone.now()


def documented(job: Any) -> None:
    """Do as its README says: call the transition, then save the instance."""
    job.start()
    job.save()


def tuned(job: Any) -> None:
    job.start()
    job.save(update_fields=CHANGED)


WAYS = tuple(
    way
    for name, model in {"django-fsm-2": FsmJob, "django-fsm-2 with its concurrency mixin": ConcurrentFsmJob}.items()
    for way in (
        Way(name=f"{name}, save()", model=model, run=documented),
        Way(name=f"{name}, {TUNED}", model=model, run=tuned, tuned=True),
    )
)

"""django-fsm-2, without and with its ConcurrentTransitionMixin."""

from __future__ import annotations

from django.utils import timezone
from django_fsm import ConcurrentTransitionMixin, FSMField, transition

from container_manager.models import JobStatus

from .columns import JobColumns


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

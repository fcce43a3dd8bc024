"""A state machine without a guard in the statement: `save()` reads the row to check its status, then writes it."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from container_manager.models import JOB_TRANSITIONS, JobStatus

from .columns import JobColumns
from .way import Way


class SeedJob(JobColumns):
    VALID_TRANSITIONS = JOB_TRANSITIONS

    def can_transition_to(self, new_status: str) -> bool:
        return new_status in self.VALID_TRANSITIONS.get(self.status, [])

    def transition_to(self, new_status: str, save: bool = True) -> bool:
        if not self.can_transition_to(new_status):
            raise ValueError(f"Invalid transition from {self.status} to {new_status}.")
        self.status = new_status
        if new_status == JobStatus.RUNNING and not self.launched_at:
            self.launched_at = timezone.now()
        if save:
            self.save(update_fields=["status"])
        return True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk:
            try:
                old = SeedJob.objects.get(pk=self.pk)
                if old.status != self.status and not old.can_transition_to(self.status):
                    raise ValueError(f"Invalid status transition: {old.status} -> {self.status}")
            except SeedJob.DoesNotExist:
                pass
        super().save(*args, **kwargs)

    def mark_as_running(self) -> None:
        self.transition_to(JobStatus.RUNNING, save=False)
        self.launched_at = timezone.now()
        self.save(update_fields=["status", "launched_at"])


WAYS = (Way(name="save() that reads first", model=SeedJob, run=SeedJob.mark_as_running),)

"""viewflow.fsm: a flow class beside the model, which saves it when a transition has succeeded."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from viewflow import fsm

from container_manager.models import JobStatus

from .columns import JobColumns


class FlowJob(JobColumns):
    pass


class JobFlow:
    state = fsm.State(JobStatus, default=JobStatus.PENDING)

    def __init__(self, job: FlowJob) -> None:
        self.job = job

    @state.setter()
    def _set_state(self, value: str) -> None:
        self.job.status = value

    @state.getter()
    def _get_state(self) -> JobStatus:
        return JobStatus(self.job.status)

    @state.transition(source=JobStatus.QUEUED, target=JobStatus.RUNNING)
    def start(self) -> None:
        self.job.launched_at = timezone.now()

    @state.on_success()
    def _on_success(self, descriptor: Any, source: Any, target: Any) -> None:
        self.job.save(update_fields=["status", "launched_at"])

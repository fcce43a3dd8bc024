"""viewflow.fsm: a flow class beside the model, which saves it when a transition has succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils import timezone
from viewflow import fsm

from container_manager.models import JobStatus

from .columns import JobColumns
from .way import CHANGED, TUNED, Way


class FlowJob(JobColumns):
    pass


class JobFlow:
    state = fsm.State(JobStatus, default=JobStatus.PENDING)

    def __init__(self, job: FlowJob, *, update_fields: Sequence[str] | None = None) -> None:
        self.job, self.update_fields = job, update_fields

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
        self.job.save(update_fields=self.update_fields)


def documented(job: FlowJob) -> None:
    JobFlow(job).start()


def tuned(job: FlowJob) -> None:
    JobFlow(job, update_fields=CHANGED).start()


WAYS = (
    Way(name="viewflow, save()", model=FlowJob, run=documented),
    Way(name=f"viewflow, {TUNED}", model=FlowJob, run=tuned, tuned=True),
)

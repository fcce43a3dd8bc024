"""The same job by other libraries' means: the same columns, no journal."""

from __future__ import annotations

from typing import Any

from django.db import connection, models
from django.utils import timezone
from django_fsm import ConcurrentTransitionMixin, FSMField, transition
from viewflow.fsm import State

from container_manager.models import JOB_TRANSITIONS, ContainerJob, JobStatus

WRITTEN = ["status", "queued_at"]


def columns() -> dict[str, Any]:
    """Return clones of the job's columns, all but its key and its status."""
    fields = [f for f in ContainerJob._meta.concrete_fields if f.name not in ("id", "status")]
    return {field.name: field.clone() for field in fields}


class LookFirstJob(models.Model):
    """The requirement's own code: look at the old row, then save."""

    locals().update(columns())
    status = models.CharField(max_length=16, default=JobStatus.PENDING)

    def transition_to(self, new: str) -> None:
        if new not in JOB_TRANSITIONS.get(self.status, ()):
            raise ValueError(f"Invalid transition from {self.status} to {new}.")
        self.status = new
        self.queued_at = timezone.now()
        self.save(update_fields=WRITTEN)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk:
            old = type(self).objects.filter(pk=self.pk).first()
            if old is not None and old.status != self.status and self.status not in JOB_TRANSITIONS[old.status]:
                raise ValueError(f"Invalid status transition: {old.status} -> {self.status}")
        super().save(*args, **kwargs)


class FsmJob(models.Model):
    locals().update(columns())
    status = FSMField(default="pending", protected=True)

    @transition(field=status, source="pending", target="queued")
    def queue_it(self) -> None:
        self.queued_at = timezone.now()


class FsmConcurrentJob(ConcurrentTransitionMixin, models.Model):
    locals().update(columns())
    status = FSMField(default="pending", protected=True)

    @transition(field=status, source="pending", target="queued")
    def queue_it(self) -> None:
        self.queued_at = timezone.now()


class ViewflowJob(models.Model):
    locals().update(columns())
    status = models.CharField(max_length=16, default="pending")

    state = State(JobStatus, default=JobStatus.PENDING)

    @state.setter()
    def _set_state(self, value: str) -> None:
        self.status = value

    @state.getter()
    def _get_state(self) -> JobStatus:
        return JobStatus(self.status)

    @state.transition(source=JobStatus.PENDING, target=JobStatus.QUEUED)
    def queue_it(self) -> None:
        self.queued_at = timezone.now()


PEERS: dict[str, type[models.Model]] = {
    "a save() that looks first": LookFirstJob,
    "django-fsm-2": FsmJob,
    "django-fsm-2 with its concurrency mixin": FsmConcurrentJob,
    "viewflow": ViewflowJob,
}

if connection.vendor == "postgresql":
    import pgtrigger

    class PgtriggerJob(models.Model):
        locals().update(columns())
        status = models.CharField(max_length=16, default="pending")

        class Meta:
            triggers = [
                pgtrigger.FSM(
                    name="job_fsm",
                    field="status",
                    transitions=[(str(s), str(t)) for s, targets in JOB_TRANSITIONS.items() for t in targets],
                )
            ]

        def queue_it(self) -> None:
            self.status = "queued"
            self.queued_at = timezone.now()

    PEERS["pgtrigger"] = PgtriggerJob

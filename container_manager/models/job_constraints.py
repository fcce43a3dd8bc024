"""What the database refuses of a job: transitions off the map, timestamps that do not fit, a key that is held."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from ..indexes import PartialUnique
from ..jobs.statuses import JOB_TRANSITIONS, UNFINISHED_STATUSES, JobStatus, UniqueUntil
from ..statemachine import TransitionConstraint, TransitionJournal
from ..unique_keys import KEY_CONSTRAINT

JOB_CONSTRAINTS: list[models.BaseConstraint] = [
    TransitionConstraint(field="status", transitions=JOB_TRANSITIONS, name="cm_job_transitions"),
    TransitionJournal(
        field="status",
        table="container_manager_jobtransition",
        name="cm_job_journal",
        subject="job_id",
        version="status_version",
        at="status_changed_at",
        actor="status_changed_by",
        reason="status_changed_reason",
    ),
    models.CheckConstraint(condition=Q(status__in=JobStatus.values), name="cm_job_status_known"),
    models.CheckConstraint(
        condition=Q(status=JobStatus.PENDING, queued_at=None, launched_at=None, completed_at=None)
        | Q(status=JobStatus.QUEUED, queued_at__isnull=False, launched_at=None, completed_at=None)
        | Q(
            status__in=[JobStatus.RUNNING, JobStatus.FAILED, JobStatus.RETRYING],
            launched_at__isnull=False,
            completed_at=None,
        )
        | Q(status=JobStatus.COMPLETED, launched_at__isnull=False, completed_at__isnull=False)
        | Q(status=JobStatus.CANCELLED, completed_at=None),
        name="cm_job_timestamps_match",
        violation_error_message=_("The timestamps do not fit the status."),
    ),
    models.CheckConstraint(condition=Q(retry_count__gte=0, max_retries__gte=0), name="cm_job_retries_not_negative"),
    models.CheckConstraint(condition=Q(priority__gte=0, priority__lte=100), name="cm_job_priority_range"),
    # Follows from the status, so that nothing can leave a key behind. A retry of a job that has started does not take
    # back a key that others may hold by now; a job with a period gives it up when another one asks for it after that
    # (`container_manager.queue.enqueue`).
    PartialUnique(
        fields=["unique_key"],
        name=KEY_CONSTRAINT,
        violation_error_message=_("Another job holds this key."),
        condition=~Q(unique_key="")
        & (
            (Q(unique_seconds__isnull=False) & ~Q(status=JobStatus.CANCELLED))
            | Q(unique_seconds=None, unique_until=UniqueUntil.FINISHED, status__in=UNFINISHED_STATUSES)
            | Q(
                unique_seconds=None,
                unique_until=UniqueUntil.STARTED,
                status__in=[JobStatus.PENDING, JobStatus.QUEUED],
                attempt=0,
                retry_count=0,
            )
        ),
    ),
]

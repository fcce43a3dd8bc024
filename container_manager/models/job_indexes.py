"""The indexes of the table of jobs, each with the query that it is for."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from ..indexes import PartialIndex
from ..jobs.statuses import JobStatus

JOB_INDEXES: list[models.Index] = [
    # A claim goes from one executor and queue to the next and takes the first jobs of each, so that it reads no others.
    # Scheduled jobs have an index of their own, in which those that are due are the first of their priority.
    PartialIndex(
        fields=["executor", "queue", "-priority", "queued_at", "id"],
        name="cm_job_claim",
        condition=Q(status=JobStatus.QUEUED, scheduled_for=None),
        leading=["status", "scheduled_for"],
    ),
    PartialIndex(
        fields=["executor", "queue", "-priority", "scheduled_for", "id"],
        name="cm_job_scheduled",
        condition=Q(status=JobStatus.QUEUED, scheduled_for__isnull=False),
        leading=["status"],
    ),
    # For statistics and pruning, by the time a job finished. Unfinished jobs are not in it. With the key, since one
    # UPDATE can end any number of jobs at the same time.
    models.Index(
        fields=["status", "status_changed_at", "id"],
        name="cm_job_finished",
        condition=Q(status__in=[JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED]),
    ),
    PartialIndex(
        fields=["scheduled_for"],
        name="cm_job_retrying",
        condition=Q(status=JobStatus.RETRYING),
        leading=["status"],
    ),
    models.Index(fields=["status", "worker"], name="cm_job_running", condition=Q(status=JobStatus.RUNNING)),
    # For who looks for a job by its name, or by the beginning of it. Jobs without one cost nothing.
    PartialIndex(
        fields=["name", "id"],
        name="cm_job_name",
        condition=~Q(name=""),
        leading=[],
        opclasses=["varchar_pattern_ops", "uuid_ops"],
    ),
    # For lists of what waits, and to count what is pending. A claim and a finish leave it alone: to enqueue a job costs
    # one more entry.
    models.Index(
        fields=["status", "id"],
        name="cm_job_waiting",
        condition=Q(status__in=[JobStatus.PENDING, JobStatus.QUEUED]),
    ),
]

"""The table of the journal of transitions."""

from __future__ import annotations

from django.db import models

from ..jobs.statuses import JobStatus
from ..statemachine import JournalTable, RowIdField
from .container_job import ContainerJob


class JobTransition(models.Model):
    """The journal: one row per change of a job's status, written by a trigger.

    The trigger takes the key from the job's row, so there is no foreign key constraint: to check it would take longer
    than to write the row.
    """

    id = RowIdField(primary_key=True)
    job = models.ForeignKey(ContainerJob, models.CASCADE, related_name="transitions", db_constraint=False)
    from_status = models.CharField(max_length=16, choices=JobStatus)
    to_status = models.CharField(max_length=16, choices=JobStatus)
    at = models.DateTimeField()
    actor = models.CharField(max_length=255, blank=True)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [JournalTable(name="cm_job_transition_table")]

    def __str__(self) -> str:
        return f"{self.job_id}: {self.from_status} -> {self.to_status}"

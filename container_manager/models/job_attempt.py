"""The table of attempts, and that of their output."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from ..indexes import PartialIndex
from ..jobs.statuses import FailureReason
from ..name_field import NameField
from .container_job import ContainerJob


class JobAttempt(models.Model):
    """One run of a job. ``finished_at`` is null as long as an engine may still hold something of it.

    ``engine``: the identity of the engine that has it; "" for one that ends with its worker. ``waiting_for``: what its
    launch waits for, such as an image; "" if for nothing. ``waited_seconds``: from its claim to its start, if it
    waited. ``kill_requested_at``: when somebody asked not to wait for its grace period
    (`container_manager.queue.cancel`). ``result``: what its command has handed out, if that was a JSON value.
    ``progress``: how far it has come, as it says itself (`container_manager.jobs.progress_lines.Progress`, by name).
    """

    job = models.ForeignKey(ContainerJob, models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField()
    worker = NameField(max_length=64)
    executor = NameField(max_length=64)
    engine = models.CharField(max_length=64, blank=True, default="")
    handle = models.TextField(blank=True, default="")
    waiting_for = models.CharField(max_length=1024, blank=True, default="", db_default="")
    waited_seconds = models.FloatField(default=0.0, db_default=0.0)
    launched_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    kill_requested_at = models.DateTimeField(null=True, blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    signal = models.PositiveSmallIntegerField(null=True, blank=True)
    reason = models.CharField(max_length=16, choices=FailureReason, blank=True, default="")
    message = models.TextField(blank=True, default="")
    peak_memory_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    cpu_seconds = models.FloatField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True)
    progress = models.JSONField(null=True, blank=True)

    class Meta:
        # The unique constraint's index serves the foreign key too.
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="cm_attempt_unique")]
        indexes = [
            PartialIndex(
                fields=["worker", "executor"],
                name="cm_attempt_open",
                condition=Q(finished_at=None),
                leading=["finished_at"],
            )
        ]

    def __str__(self) -> str:
        return f"{self.job_id} #{self.number}"


class JobLog(models.Model):
    """A chunk of an attempt's output, in order of ``sequence``."""

    class Stream(models.TextChoices):
        STDOUT = "stdout", "stdout"
        STDERR = "stderr", "stderr"
        SYSTEM = "system", "system"

    attempt = models.ForeignKey(JobAttempt, models.CASCADE, related_name="logs", db_index=False)
    sequence = models.PositiveIntegerField()
    stream = models.CharField(max_length=8, choices=Stream)
    data = models.BinaryField()

    class Meta:
        ordering = ["attempt", "sequence"]
        constraints = [models.UniqueConstraint(fields=["attempt", "sequence"], name="cm_log_unique")]

    def __str__(self) -> str:
        return f"{self.attempt_id} #{self.sequence} {self.stream}"

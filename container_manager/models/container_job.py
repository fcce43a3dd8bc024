"""The table of jobs, and what can be done with a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, router, transaction
from django.dispatch import Signal
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..jobs.command import split_command
from ..jobs.identifiers import uuid7
from ..jobs.printable import escaped, validate_line, validate_lines
from ..jobs.progress_lines import Progress, progress_of
from ..jobs.sizes import MOST_CPUS, MOST_SECONDS
from ..jobs.spec import JobSpec
from ..jobs.statuses import FINISHED_STATUSES, JOB_TRANSITIONS, FailureReason, JobStatus, UniqueUntil
from ..name_field import NameField
from ..querysets import ContainerJobQuerySet
from ..signals import job_transitioned
from ..statemachine import Effect
from ..statemachine.machine import actor_name
from ..statemachine.model import StateMachineModel
from ..unique_keys import refusing_held_keys
from .job_constraints import JOB_CONSTRAINTS
from .job_indexes import JOB_INDEXES
from .job_validation import validate_types, validate_values
from .job_waiting import JobNotCompleted, pauses_until_finished


class ContainerJob(StateMachineModel):
    """What to run, and its state."""

    Status = JobStatus
    VALID_TRANSITIONS = JOB_TRANSITIONS

    transition_signal: ClassVar[Signal | None] = job_transitioned
    # The only statement of what a transition writes; claim, finish and retry add what only the worker knows.
    transition_effects: ClassVar[Mapping[Any, Mapping[str, Any]]] = {
        JobStatus.QUEUED: {"queued_at": Effect.NOW, "launched_at": None},
        JobStatus.RUNNING: {
            "launched_at": Effect.NOW,
            "exit_code": None,
            "failure_reason": "",
            "last_error": "",
            "worker": "",
        },
        JobStatus.COMPLETED: {"completed_at": Effect.NOW, "worker": ""},
        JobStatus.FAILED: {"worker": ""},
        JobStatus.CANCELLED: {"worker": ""},
        JobStatus.RETRYING: {"retry_count": Effect.INCREMENT},
    }
    lifecycle_fields: ClassVar[tuple[str, ...]] = ("scheduled_for", "attempt")

    # Not stored: on whose behalf the job is validated, a user, or a text that names code which vouches for the job.
    submitter: object = None
    # Not stored: whether `container_manager.queue.enqueue` has found this job by its unique key, and created none.
    existed: bool = False

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(_("name"), max_length=255, blank=True, validators=[validate_line])
    image = models.CharField(_("image"), max_length=512, blank=True, validators=[validate_line])
    command = models.TextField(
        _("command"),
        blank=True,
        help_text=_("Shell-quoted; run as argv, without a shell."),
        validators=[validate_lines],
    )
    environment = models.JSONField(_("environment"), default=dict, blank=True)
    secrets = models.JSONField(
        _("secrets"), default=dict, blank=True, help_text=_("Variable name → where the worker reads the value.")
    )
    secret_files = models.JSONField(
        _("secret files"), default=dict, blank=True, help_text=_("File name → where the worker reads the content.")
    )
    working_directory = models.CharField(
        _("working directory"), max_length=1024, blank=True, validators=[validate_line]
    )
    container = models.JSONField(
        _("container"),
        default=dict,
        blank=True,
        help_text=_("What it asks for: user, tmpfs, volumes, network, …"),
    )
    memory_bytes = models.PositiveBigIntegerField(_("memory limit (bytes)"), null=True, blank=True)
    cpu_count = models.FloatField(
        _("CPU limit (cores)"),
        null=True,
        blank=True,
        validators=[MinValueValidator(0.001), MaxValueValidator(MOST_CPUS)],
    )
    timeout_seconds = models.PositiveIntegerField(
        _("timeout (s)"), null=True, blank=True, validators=[MaxValueValidator(MOST_SECONDS)]
    )
    grace_seconds = models.PositiveIntegerField(
        _("grace period (s)"), default=10, validators=[MaxValueValidator(MOST_SECONDS)]
    )
    executor = NameField(_("executor"), max_length=64, default="default")
    queue = NameField(_("queue"), max_length=64, default="default")
    priority = models.SmallIntegerField(
        _("priority"), default=50, validators=[MinValueValidator(0), MaxValueValidator(100)]
    )
    scheduled_for = models.DateTimeField(_("scheduled for"), null=True, blank=True)
    queued_at = models.DateTimeField(_("queued at"), null=True, blank=True, editable=False)
    launched_at = models.DateTimeField(_("launched at"), null=True, blank=True, editable=False)
    completed_at = models.DateTimeField(_("completed at"), null=True, blank=True, editable=False)
    retry_count = models.IntegerField(_("retries so far"), default=0, editable=False)
    max_retries = models.IntegerField(_("retries allowed"), default=3, validators=[MinValueValidator(0)])
    backoff_seconds = models.PositiveIntegerField(
        _("backoff (s)"), null=True, blank=True, validators=[MaxValueValidator(MOST_SECONDS)]
    )
    status = models.CharField(_("status"), max_length=16, choices=JobStatus, default=JobStatus.PENDING)
    status_version = models.PositiveIntegerField(default=0, editable=False)
    status_changed_at = models.DateTimeField(null=True, blank=True, editable=False)
    status_changed_by = models.CharField(max_length=255, blank=True, default="", editable=False)
    status_changed_reason = models.TextField(blank=True, default="", editable=False)
    exit_code = models.IntegerField(_("exit code"), null=True, blank=True, editable=False)
    failure_reason = models.CharField(
        _("failure reason"), max_length=16, choices=FailureReason, blank=True, default="", editable=False
    )
    last_error = models.TextField(_("last error"), blank=True, default="", editable=False)
    worker = NameField(_("worker"), max_length=64, blank=True, default="", editable=False)
    attempt = models.PositiveIntegerField(_("attempt"), default=0, editable=False)
    labels = models.JSONField(_("labels"), default=dict, blank=True)
    task = models.CharField(
        _("task"), max_length=255, blank=True, default="", db_default="", validators=[validate_line]
    )
    task_arguments = models.JSONField(_("task's arguments"), null=True, blank=True)
    unique_key = NameField(_("unique key"), max_length=255, blank=True, default="", db_default="")
    unique_until = models.CharField(
        _("unique until"),
        max_length=8,
        choices=UniqueUntil,
        default=UniqueUntil.FINISHED,
        db_default=UniqueUntil.FINISHED.value,
    )
    unique_seconds = models.PositiveIntegerField(
        _("unique for (s)"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_SECONDS)],
    )
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)
    created_by = models.CharField(_("created by"), max_length=255, blank=True, default="", validators=[validate_line])
    origin = models.UUIDField(
        _("origin"), null=True, blank=True, editable=False, help_text=_("The finished job that this one runs again.")
    )

    objects = ContainerJobQuerySet.as_manager()

    class Meta:
        verbose_name = _("container job")
        verbose_name_plural = _("container jobs")
        # Beside Django's own: view, add (to submit), change and delete.
        permissions = [
            ("cancel_containerjob", "Can cancel container jobs"),
            ("retry_containerjob", "Can retry container jobs"),
            ("pause_queues", "Can pause and resume queues"),
            ("see_environment", "Can see the environment of container jobs"),
            ("see_output", "Can see the output of container jobs"),
        ]
        indexes = JOB_INDEXES
        constraints = JOB_CONSTRAINTS

    def __str__(self) -> str:
        return escaped(self.name or self.pk)

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Raise ValidationError for values of the wrong type too, of which Django would store what `str()` makes."""
        validate_types(self, exclude=exclude or ())
        super().clean_fields(exclude)

    def clean(self) -> None:
        super().clean()
        validate_values(self)

    def submitted_by(self, actor: object) -> None:
        """Note who submits the job, unless that is not known (None): a user, or a text that names code."""
        if actor is not None:
            self.submitter, self.created_by = actor, self.created_by or actor_name(actor)

    def transition_to(self, new: object, save: bool = True, *, reason: str = "", actor: object = None) -> bool:
        """Do `StateMachineModel.transition_to`; raises UniqueKeyHeld for a retry whose key another job holds."""
        with refusing_held_keys(self.__dict__.get("unique_key", "")):
            return super().transition_to(new, save, reason=reason, actor=actor)

    def save(self, *args: Any, **kwargs: Any) -> None:
        with refusing_held_keys(self.__dict__.get("unique_key", "")):
            super().save(*args, **kwargs)

    @property
    def argv(self) -> list[str]:
        """The command as a list, split as a POSIX shell would.

        Raises ValueError if the quoting is invalid.
        """
        return split_command(self.command)

    @property
    def spec(self) -> JobSpec:
        """What this job is asked to run: all that a retry of a finished job repeats."""
        return JobSpec._make(getattr(self, name) for name in JobSpec._fields)

    @property
    def is_terminal(self) -> bool:
        """Whether the map has no edge from this status; a failed job has one."""
        return not self.VALID_TRANSITIONS.get(self.status, ())

    @property
    def is_finished(self) -> bool:
        """Whether the job will not run again by itself: completed, cancelled, or failed without a retry to come.

        A failed job that is to be retried is ``retrying``. `retry()` can run a failed job again.
        """
        return self.status in FINISHED_STATUSES

    @property
    def is_queued(self) -> bool:
        """Whether the job waits for a worker, or for its time."""
        return self.status == JobStatus.QUEUED

    @property
    def is_ready_to_launch(self) -> bool:
        """Whether the job is queued and its time has come."""
        return self.is_queued and (self.scheduled_for is None or self.scheduled_for <= timezone.now())

    @property
    def queue_status(self) -> str:
        """One of not_queued, queued, scheduled, launched, launch_failed."""
        if self.status == JobStatus.QUEUED:
            return "queued" if self.is_ready_to_launch else "scheduled"
        if self.status in (JobStatus.FAILED, JobStatus.RETRYING):
            unlaunched = (
                *(FailureReason.IMAGE, FailureReason.START),
                *(FailureReason.UNAVAILABLE, FailureReason.UNSCHEDULABLE),
            )
            return "launch_failed" if self.failure_reason in unlaunched else "launched"
        return "launched" if self.launched_at else "not_queued"

    @property
    def duration(self) -> timedelta | None:
        """How long the present attempt has run, or the completed one ran; None if there is none or it is not known."""
        if self.launched_at is None or self.status not in (JobStatus.RUNNING, JobStatus.COMPLETED):
            return None
        return (self.completed_at or timezone.now()) - self.launched_at

    def output(self, attempt: int | None = None, stream: str | None = None) -> bytes:
        """Return what an attempt has printed so far, as far as the log keeps it.

        None: the last attempt, and all streams.
        ``stream``: ``stdout``, ``stderr``, or ``system`` for the worker's own notes. Empty where there is no such
        attempt.
        """
        found = self.attempts.filter(number=attempt) if attempt is not None else self.attempts.all()
        last = found.order_by("-number").first()
        if last is None:
            return b""
        rows = last.logs.order_by("sequence")
        if stream is not None:
            rows = rows.filter(stream=stream)
        return b"".join(bytes(data) for data in rows.values_list("data", flat=True))

    async def aoutput(self, attempt: int | None = None, stream: str | None = None) -> bytes:
        """Do `output` from asynchronous code."""
        return await sync_to_async(self.output)(attempt, stream)

    @property
    def result(self) -> Any:
        """The JSON value that a completed job has handed out; None if it has handed out none, or has not completed.

        It is its last attempt's: a query. What an attempt that failed has handed out is its own ``result``.
        """
        if self.status != JobStatus.COMPLETED:
            return None
        return self.attempts.filter(number=self.attempt).values_list("result", flat=True).first()

    @property
    def progress(self) -> Progress | None:
        """How far the last attempt has come, as it says itself; None if it has said nothing: a query."""
        return progress_of(self.attempts.filter(number=self.attempt).values_list("progress", flat=True).first())

    def wait_result(self, timeout: float | None = None) -> Any:
        """Wait as `wait` does, and return the result. Raises JobNotCompleted where the job failed or was cancelled."""
        if self.wait(timeout) != JobStatus.COMPLETED:
            raise JobNotCompleted(self)
        return self.result

    async def await_result(self, timeout: float | None = None) -> Any:
        """Do `wait_result` from asynchronous code."""
        if await self.await_(timeout) != JobStatus.COMPLETED:
            raise JobNotCompleted(self)
        return await sync_to_async(lambda: self.result)()

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until the job has finished (see `is_finished`), refresh it, and return its status.

        Looks at the row, at first often, then once a second. Raises TimeoutError after ``timeout`` seconds (None:
        never), and TransactionManagementError for an unfinished job in a transaction, which need not see its end.
        The processes of a cancelled job may still be ending.
        """
        for pause in pauses_until_finished(self, timeout):
            time.sleep(pause)
        return JobStatus(self.status)

    async def await_(self, timeout: float | None = None) -> JobStatus:
        """Do `wait` from asynchronous code; the underscore is there since ``await`` is a keyword."""
        pauses = pauses_until_finished(self, timeout)
        while (pause := await sync_to_async(lambda: next(pauses, None))()) is not None:
            await asyncio.sleep(pause)
        return JobStatus(self.status)

    def mark_as_queued(self, scheduled_for: datetime | None = None, *, reason: str = "", actor: object = None) -> None:
        """Queue the job, to start no earlier than ``scheduled_for``.

        Without an argument a pending job starts when its own ``scheduled_for`` says, and a retry at once: what its
        ``scheduled_for`` held until now was when the retry is due by itself.
        Raises what `transition_to` raises, as do all these methods.
        """
        if scheduled_for is None and (self.status == JobStatus.PENDING or self.scheduled_for is None):
            self.transition_to(JobStatus.QUEUED, reason=reason, actor=actor)
            return
        before = self.__dict__.copy()
        self.transition_to(JobStatus.QUEUED, save=False, reason=reason, actor=actor)
        self.scheduled_for = scheduled_for
        try:
            self.save(update_fields=["status", "scheduled_for"])
        except BaseException:
            self.__dict__.update(before)
            raise

    def mark_as_running(self, *, reason: str = "", actor: object = None) -> None:
        """Mark the job as running without a worker; the last attempt's exit code, reason and error are cleared."""
        self.transition_to(JobStatus.RUNNING, reason=reason, actor=actor)

    def mark_as_completed(self, *, reason: str = "", actor: object = None) -> None:
        """Mark a running job as completed."""
        self.transition_to(JobStatus.COMPLETED, reason=reason, actor=actor)

    def mark_as_failed(self, should_retry: bool = False, *, reason: str = "", actor: object = None) -> None:
        """Fail the job; with ``should_retry`` and retries left, change it to retrying in the same transaction."""
        if not should_retry:
            self.transition_to(JobStatus.FAILED, reason=reason, actor=actor)
            return
        before = self.__dict__.copy()
        using = router.db_for_write(type(self), instance=self)
        try:
            with transaction.atomic(using=using):
                self.transition_to(JobStatus.FAILED, reason=reason, actor=actor)
                if self.retry_count < self.max_retries:
                    self.transition_to(JobStatus.RETRYING, reason=reason, actor=actor)
        except BaseException:
            self.__dict__.update(before)
            raise

    def mark_as_cancelled(self, *, reason: str = "", actor: object = None) -> None:
        """Cancel the job. A worker that runs it stops the command soon after."""
        self.transition_to(JobStatus.CANCELLED, reason=reason, actor=actor)

    async def amark_as_queued(
        self, scheduled_for: datetime | None = None, *, reason: str = "", actor: object = None
    ) -> None:
        await sync_to_async(self.mark_as_queued)(scheduled_for, reason=reason, actor=actor)

    async def amark_as_running(self, *, reason: str = "", actor: object = None) -> None:
        await sync_to_async(self.mark_as_running)(reason=reason, actor=actor)

    async def amark_as_completed(self, *, reason: str = "", actor: object = None) -> None:
        await sync_to_async(self.mark_as_completed)(reason=reason, actor=actor)

    async def amark_as_failed(self, should_retry: bool = False, *, reason: str = "", actor: object = None) -> None:
        await sync_to_async(self.mark_as_failed)(should_retry, reason=reason, actor=actor)

    async def amark_as_cancelled(self, *, reason: str = "", actor: object = None) -> None:
        await sync_to_async(self.mark_as_cancelled)(reason=reason, actor=actor)

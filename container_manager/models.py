"""The tables: jobs, attempts, the journal of transitions, logs, workers and paused queues."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import NoneType
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import DEFAULT_DB_ALIAS, connections, models, router, transaction
from django.db.models import Q
from django.dispatch import Signal
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from .conf import app_settings
from .indexes import PartialIndex, PartialUnique
from .jobs.command import split_command
from .jobs.container_request import container_request
from .jobs.environment import check_environment, check_names
from .jobs.histogram import BUCKETS
from .jobs.identifiers import uuid7
from .jobs.json_value import MOST_ARGUMENT_BYTES, json_text
from .jobs.printable import check_printable, escaped, validate_line, validate_lines
from .jobs.progress_lines import Progress, progress_of
from .jobs.rules import is_positive
from .jobs.secret_references import check_file_names, required_permission
from .jobs.sizes import MOST_CPUS, MOST_SECONDS, check_labels, check_path, check_sizes
from .jobs.spec import TEXT_MAPPINGS, JobSpec
from .name_field import NameField
from .querysets import ContainerJobQuerySet
from .signals import job_transitioned
from .statemachine import Effect, JournalTable, RowIdField, TransitionConstraint, TransitionJournal
from .statemachine.machine import actor_name
from .statemachine.model import StateMachineModel
from .unique_keys import KEY_CONSTRAINT, refusing_held_keys

# Between two looks at a job that is waited for.
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.02, 1.0


class JobStatus(models.TextChoices):
    """The states of a job; also `ContainerJob.Status`."""

    PENDING = "pending", _("Pending")
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    COMPLETED = "completed", _("Completed")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")
    RETRYING = "retrying", _("Retrying")


# The only statement of the map: triggers, checks, diagram and docs derive from it.
JOB_TRANSITIONS: Mapping[str | int, Sequence[str | int]] = {
    JobStatus.PENDING: [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLED],
    JobStatus.QUEUED: [JobStatus.RUNNING, JobStatus.CANCELLED],
    JobStatus.RUNNING: [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED],
    JobStatus.FAILED: [JobStatus.RETRYING, JobStatus.CANCELLED],
    JobStatus.RETRYING: [JobStatus.QUEUED, JobStatus.CANCELLED],
    JobStatus.COMPLETED: [],
    JobStatus.CANCELLED: [],
}


# The worker that stores a failure also starts its retry, in one transaction. So a job that others see as failed has no
# retry to come, unless somebody asks for one.
FINISHED_STATUSES = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
UNFINISHED_STATUSES = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRYING)


class FailureReason(models.TextChoices):
    """Why an attempt failed."""

    ERROR = "error", _("Non-zero exit code")
    SIGNAL = "signal", _("Ended by a signal")
    OOM = "oom", _("Out of memory")
    TIMEOUT = "timeout", _("Timed out")
    IMAGE = "image", _("Image not available")
    START = "start", _("Could not be started")
    UNSCHEDULABLE = "unschedulable", _("Could not be scheduled")
    UNAVAILABLE = "unavailable", _("Registry, disk or the like not available")
    NODE_LOST = "node_lost", _("Node lost")
    LOST = "lost", _("Lost: nobody knows how it ended")


class UniqueUntil(models.TextChoices):
    """Until when a job holds its unique key."""

    STARTED = "started", _("Until it has started")
    FINISHED = "finished", _("Until it has finished")


class JobNotCompleted(RuntimeError):
    """A job whose result was waited for has failed, or was cancelled. ``job``: with its reason and last error."""

    def __init__(self, job: ContainerJob) -> None:
        self.job = job
        why = f" ({job.failure_reason}): {job.last_error}" if job.failure_reason else ""
        super().__init__(f"Job {job.pk} is {job.status}{why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job,)


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
        indexes = [
            # A claim goes from one executor and queue to the next and takes the first jobs of each, so that it reads
            # no others. Scheduled jobs have an index of their own, in which those that are due are the first of their
            # priority.
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
            # For statistics and pruning, by the time a job finished. Unfinished jobs are not in it. With the key, since
            # one UPDATE can end any number of jobs at the same time.
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
            # For lists of what waits, and to count what is pending. A claim and a finish leave it alone: to enqueue a
            # job costs one more entry.
            models.Index(
                fields=["status", "id"],
                name="cm_job_waiting",
                condition=Q(status__in=[JobStatus.PENDING, JobStatus.QUEUED]),
            ),
        ]
        constraints = [
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
            models.CheckConstraint(
                condition=Q(retry_count__gte=0, max_retries__gte=0), name="cm_job_retries_not_negative"
            ),
            models.CheckConstraint(condition=Q(priority__gte=0, priority__lte=100), name="cm_job_priority_range"),
            # Follows from the status, so that nothing can leave a key behind. A retry of a job that has started does
            # not take back a key that others may hold by now; a job with a period gives it up when another one asks
            # for it after that (`container_manager.queue.enqueue`).
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

    def __str__(self) -> str:
        return escaped(self.name or self.pk)

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Raise ValidationError for values of the wrong type too, of which Django would store what `str()` makes."""
        odd = {
            field.name: _("A text is needed, not a value of type %s.") % type(value).__name__
            for field in self._meta.concrete_fields
            if isinstance(field, models.CharField | models.TextField)
            and not (exclude and field.name in exclude)
            and not isinstance(value := self.__dict__.get(field.attname, ""), str | Promise | NoneType)
        }
        if "command" in odd:
            odd["command"] = _("A text is needed, not a value of type %s; shlex.join() makes one of a list.") % (
                type(self.command).__name__
            )
        if odd:
            raise ValidationError(odd)
        super().clean_fields(exclude)

    def clean(self) -> None:
        super().clean()
        for name in TEXT_MAPPINGS:
            value = getattr(self, name)
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise ValidationError({name: _("A JSON object of strings is needed.")})
        if self.cpu_count is not None and not is_positive(self.cpu_count):
            raise ValidationError({"cpu_count": _("A finite number above zero is needed.")})
        if self.unique_seconds is not None and not self.unique_key:
            raise ValidationError({"unique_seconds": _("Without a unique_key it means nothing; give one.")})
        if self.unique_seconds is not None and self.unique_until != UniqueUntil.FINISHED:
            raise ValidationError({"unique_seconds": _("It replaces unique_until; give one of them.")})
        checks: Sequence[tuple[str, Callable[[], object]]] = (
            ("command", self._check_command),
            ("environment", self._check_environment),
            ("secrets", lambda: check_names(self.secrets)),
            ("secrets", lambda: self._check_secrets(self.secrets)),
            ("secret_files", lambda: check_file_names(self.secret_files)),
            ("secret_files", lambda: self._check_secrets(self.secret_files)),
            ("labels", lambda: _check_labels(self.labels)),
            ("working_directory", lambda: check_path(self.working_directory)),
            ("container", lambda: container_request(self.container)),
            ("task_arguments", lambda: json_text(self.task_arguments, most_bytes=MOST_ARGUMENT_BYTES)),
        )
        for name, check in checks:
            # A text of another type was an error of `clean_fields` already.
            if name in ("command", "working_directory") and not isinstance(getattr(self, name), str):
                continue
            try:
                check()
            except ValueError as error:
                raise ValidationError({name: str(error)}) from error

    def _check_command(self) -> None:
        try:
            argv = self.argv
        except ValueError as error:
            raise ValueError(_("The quoting is broken: %s. shlex.join() quotes a list of words.") % error) from error
        if not argv and not self.image:
            raise ValueError(_("Say what to run: a command, or an image that has one."))
        check_sizes(argv, {})

    def _check_environment(self) -> None:
        check_environment(self.environment)
        # The command alone has passed, so what is too large now is what it gets.
        check_sizes(self.argv if isinstance(self.command, str) else (), self.environment)

    def submitted_by(self, actor: object) -> None:
        """Note who submits the job, unless that is not known (None): a user, or a text that names code."""
        if actor is not None:
            self.submitter, self.created_by = actor, self.created_by or actor_name(actor)

    def _check_secrets(self, references: Mapping[str, str]) -> None:
        """Raise ValueError for a secret that no job may have, or none that this one's submitter asks for."""
        for reference in references.values():
            permission = required_permission(reference, app_settings().secrets)
            if permission and not _has_permission(self.submitter, permission):
                text = _("The secret %(reference)r is for those who have the permission %(permission)s; see 'actor'.")
                raise ValueError(text % {"reference": reference, "permission": permission})

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
        for pause in self._until_finished(timeout):
            time.sleep(pause)
        return JobStatus(self.status)

    async def await_(self, timeout: float | None = None) -> JobStatus:
        """Do `wait` from asynchronous code; the underscore is there since ``await`` is a keyword."""
        pauses = self._until_finished(timeout)
        while (pause := await sync_to_async(lambda: next(pauses, None))()) is not None:
            await asyncio.sleep(pause)
        return JobStatus(self.status)

    def _until_finished(self, timeout: float | None) -> Iterator[float]:
        """Yield the pauses to make until the job has finished."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE_SECONDS
        while True:
            # The status alone: a row can be large.
            self.refresh_from_db(fields=["status"])
            if self.is_finished:
                self.refresh_from_db()
                return
            if connections[self._state.db or DEFAULT_DB_ALIAS].in_atomic_block:
                raise transaction.TransactionManagementError(
                    f"Job {self.pk} is {self.status}; wait for its end outside of transactions."
                )
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"Job {self.pk} is still {self.status} after {timeout} s.")
            yield min(pause, left)
            pause = min(pause * 1.5, _LAST_PAUSE_SECONDS)

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


def _check_labels(labels: Mapping[str, str]) -> None:
    check_labels(labels)
    for text in (*labels, *labels.values()):
        check_printable(text)


def _has_permission(submitter: object, permission: str) -> bool:
    """Tell whether a user has a permission; a text is the name of code that has seen to that itself."""
    if isinstance(submitter, str):
        return bool(submitter)
    has_perm: Callable[[str], bool] | None = getattr(submitter, "has_perm", None)
    return has_perm is not None and has_perm(permission)


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


class Worker(models.Model):
    """A worker and its lease.

    ``rescuable_at``: from when others may take its attempts, though they do not know that its process is gone; null:
    as soon as the lease has expired. ``place``: where ``pid`` means this process; "" if that is not known.
    ``engines``: by alias, the identity of the engine that answered there last. ``engines_away``: by alias, since when
    an engine does not answer, as ISO 8601; null of a worker of an older release.
    """

    id = NameField(primary_key=True, max_length=64)
    host = models.CharField(max_length=255)
    place = models.CharField(max_length=255, blank=True, default="", db_default="")
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list)
    executors = models.JSONField(default=list)
    engines = models.JSONField(default=dict)
    engines_away = models.JSONField(default=dict, null=True)
    slots = models.PositiveIntegerField(default=1)
    started_at = models.DateTimeField(default=timezone.now)
    lease_expires_at = models.DateTimeField(db_index=True)
    rescuable_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return escaped(self.id)

    def serves(self, executor: str, queue: str) -> bool:
        """Tell whether it claims jobs of this executor in this queue; a worker that names no queues serves all."""
        return executor in self.executors and (not self.queues or queue in self.queues)


class PausedQueue(models.Model):
    """A queue that workers do not claim from, as long as the row exists."""

    name = NameField(primary_key=True, max_length=64)
    paused_at = models.DateTimeField(default=timezone.now)
    paused_by = models.CharField(max_length=255, blank=True, default="", validators=[validate_line])

    def __str__(self) -> str:
        return escaped(self.name)


class QueueSpan(models.Model):
    """What happened in a queue in a span of time, as the maintainer has counted it from the journal.

    ``length``: `MINUTE` or `HOUR`, in minutes, or `TOTAL`: the queue's totals since the beginning, which are never
    pruned. ``minute``: when it begins, in whole minutes since 1970 in UTC; 0 for the totals.
    ``created``: jobs that were enqueued, by the time in their keys. The other counts are of transitions, by their
    target: ``queued`` are retries, and pending jobs that were queued. ``failed`` is about attempts: those that were
    retried are in it, and in ``retried`` too.
    ``wait_…`` and ``run_…``: how many attempts waited and ran for how long, by bucket (`jobs.histogram`), and the sums.
    """

    TOTAL: ClassVar[int] = 0
    MINUTE: ClassVar[int] = 1
    HOUR: ClassVar[int] = 60

    length = models.PositiveSmallIntegerField()
    minute = models.PositiveIntegerField()
    queue = NameField(max_length=64)
    created = models.PositiveBigIntegerField(default=0)
    queued = models.PositiveBigIntegerField(default=0)
    started = models.PositiveBigIntegerField(default=0)
    completed = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    cancelled = models.PositiveBigIntegerField(default=0)
    retried = models.PositiveBigIntegerField(default=0)
    wait_seconds = models.FloatField(default=0.0)
    run_seconds = models.FloatField(default=0.0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["length", "minute", "queue"], name="cm_span_unique")]

    def __str__(self) -> str:
        return f"{escaped(self.queue)} {self.minute}+{self.length}"


WAIT_COLUMNS, RUN_COLUMNS = ([f"{kind}_{number}" for number in range(BUCKETS)] for kind in ("wait", "run"))
for _name in (*WAIT_COLUMNS, *RUN_COLUMNS):
    QueueSpan.add_to_class(_name, models.PositiveBigIntegerField(default=0))


class StatisticsProgress(models.Model):
    """How far the journal and the jobs are counted; one row, whose lock lets one worker count at a time.

    ``counted_to``, ``counted_at``: the key of the last journal row that is counted, and the latest time of any.
    ``marked_to``: what is counted next, as soon as no transaction that may have written up to there is under way;
    ``mark`` tells which these are, ``marked_at`` since when they are waited for. ``created_to`` and
    ``created_again_to``: the first minute whose new jobs are not counted yet, or not for the second time.
    """

    counted_to = models.BigIntegerField(default=0)
    counted_at = models.DateTimeField(null=True)
    marked_to = models.BigIntegerField(default=0)
    marked_at = models.DateTimeField(null=True)
    mark = models.BigIntegerField(default=0)
    created_to = models.PositiveIntegerField(default=0)
    created_again_to = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"to {self.counted_to}"

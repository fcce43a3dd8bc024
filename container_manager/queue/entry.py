"""Enqueue jobs: new ones, one or many, and retries of those that have ended; cancel them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.utils import timezone

from ..columns.unique_keys import UniqueKeyHeld
from ..jobs.printable import validate_words
from ..jobs.tracing import in_this_trace, submitting
from ..models import ContainerJob, JobStatus
from ..statemachine.machine import actor_name, machine_of
from ..store.attempts import request_kill
from ..store.notifications import CANCELLED, wake_workers


def enqueue(
    *, scheduled_for: datetime | None = None, actor: object = None, using: str | None = None, **fields: Any
) -> ContainerJob:
    """Create a job with status queued, in the caller's transaction if there is one.

    ``actor`` submits it, by default its ``created_by``: a user, who needs the permissions of the secrets that the job
    names, or a text that names code of the project, which has seen to that itself.
    ``using`` is a database alias, here and in all functions of the queue; None: what the database routers say.

    With a ``unique_key`` that another job holds, that job is returned as it is, and its ``existed`` is true: see
    `container_manager.jobs.spec.JobSpec`.

    Raises ValidationError that names each wrong field, IntegrityError for an id that is taken, and UniqueKeyHeld where
    the isolation level of the caller's transaction hides who holds the key.
    """
    using = using or router.db_for_write(ContainerJob)
    job = ContainerJob(**fields, **_queued_now(), scheduled_for=scheduled_for)
    job.submitted_by(actor)
    with submitting(1):
        job.environment = in_this_trace(job.environment)
        # Uniqueness and constraints are left to the database: no queries before the INSERT.
        job.full_clean(validate_unique=False, validate_constraints=False)
        job = ContainerJob.objects.using(using).insert(job)
    if not job.existed:
        wake_workers(using=using)
    return job


def enqueue_many(
    jobs: Iterable[ContainerJob],
    *,
    scheduled_for: datetime | None = None,
    actor: object = None,
    using: str | None = None,
) -> list[ContainerJob]:
    """Enqueue many unsaved jobs in few statements, all or none; ``scheduled_for`` replaces that of each job.

    Return a job for each: itself, or the one that holds its unique key. That one ``existed`` before, or is an earlier
    one of these.
    Raises ValidationError for the first job that is wrong; its message has the job's index.
    """
    using, ready = using or router.db_for_write(ContainerJob), list(jobs)
    with submitting(len(ready)):
        return _enqueue_many(ready, scheduled_for=scheduled_for, actor=actor, using=using)


def _enqueue_many(
    ready: list[ContainerJob], *, scheduled_for: datetime | None, actor: object, using: str
) -> list[ContainerJob]:
    queued = _queued_now()
    for number, job in enumerate(ready):
        for name, value in queued.items():
            setattr(job, name, value)
        if scheduled_for is not None:
            job.scheduled_for = scheduled_for
        job.environment = in_this_trace(job.environment)
        job.submitted_by(actor)
        try:
            job.clean_fields(exclude=("status",))
            job.clean()
        except ValidationError as error:
            raise ValidationError([f"Job {number}: {message}" for message in error.messages]) from error
    found = ContainerJob.objects.using(using).insert_many(ready)
    wake_workers(using=using)
    return found


def retry(job: ContainerJob, *, actor: object = None, reason: str = "") -> ContainerJob:
    """Run a job again: a failed job itself, a completed or cancelled one as a new job with it as ``origin``.

    Return the job that is now queued. Raises InvalidTransition for a job that has not ended, UniqueKeyHeld if another
    job holds its unique key by now, and ValidationError for control characters in the actor's name or the reason, which
    may have more than one line.
    """
    using = router.db_for_write(ContainerJob, instance=job)
    validate_words(actor=actor_name(actor), reason=reason)
    if job.is_terminal:
        with transaction.atomic(using=using):
            # Whoever submitted the job was asked for the permissions of its secrets; it is the same job.
            again = ContainerJob(**job.spec._asdict(), origin=job.pk, created_by=actor_name(actor))
            again.submitter = f"retry of {job.pk}"
            again.full_clean(validate_constraints=not again.unique_key)
            if (found := ContainerJob.objects.using(using).insert(again)).existed:
                raise UniqueKeyHeld(found.unique_key)
            # Not created as queued: a transition keeps actor and reason in the new job's journal.
            again.mark_as_queued(actor=actor, reason=reason)
        return again
    before = job.__dict__.copy()
    try:
        with transaction.atomic(using=using):
            job.transition_to(JobStatus.RETRYING, actor=actor, reason=reason)
            job.mark_as_queued(actor=actor, reason=reason)
    except BaseException:
        job.__dict__.update(before)
        raise
    return job


def cancel(job: ContainerJob, *, now: bool = False, actor: object = None, reason: str = "") -> None:
    """Cancel a job; ``now``: have what runs of it killed at once, also of a job that was cancelled before.

    Without ``now`` it is ``mark_as_cancelled``: a command that runs gets its grace period.
    Raises InvalidTransition for a job that cannot be cancelled, and ValidationError as `retry` does.
    """
    using = router.db_for_write(ContainerJob, instance=job)
    validate_words(actor=actor_name(actor), reason=reason)
    with transaction.atomic(using=using):
        if not (now and job.status == JobStatus.CANCELLED):
            job.mark_as_cancelled(actor=actor, reason=reason)
        if now:
            kill([job.pk], using=using)


def kill(jobs: Collection[UUID], *, using: str | None = None) -> int:
    """Have what still runs of cancelled jobs killed at once; return of how many attempts. Other jobs stay as they are.

    ``jobs``: their primary keys.
    """
    using = using or router.db_for_write(ContainerJob)
    count = request_kill(jobs, using=using)
    wake_workers(CANCELLED, using=using)
    return count


async def acancel(job: ContainerJob, *, now: bool = False, actor: object = None, reason: str = "") -> None:
    """Do `cancel` from asynchronous code."""
    await sync_to_async(cancel)(job, now=now, actor=actor, reason=reason)


async def aenqueue(
    *, scheduled_for: datetime | None = None, actor: object = None, using: str | None = None, **fields: Any
) -> ContainerJob:
    """Do `enqueue` from asynchronous code."""
    return await sync_to_async(enqueue)(scheduled_for=scheduled_for, actor=actor, using=using, **fields)


async def aenqueue_many(
    jobs: Iterable[ContainerJob],
    *,
    scheduled_for: datetime | None = None,
    actor: object = None,
    using: str | None = None,
) -> list[ContainerJob]:
    """Do `enqueue_many` from asynchronous code."""
    return await sync_to_async(enqueue_many)(jobs, scheduled_for=scheduled_for, actor=actor, using=using)


async def aretry(job: ContainerJob, *, actor: object = None, reason: str = "") -> ContainerJob:
    """Do `retry` from asynchronous code."""
    return await sync_to_async(retry)(job, actor=actor, reason=reason)


def _queued_now() -> dict[str, Any]:
    """Return what the state machine says of a new job in the queue."""
    return machine_of(ContainerJob).initial_values(JobStatus.QUEUED.value, at=timezone.now())

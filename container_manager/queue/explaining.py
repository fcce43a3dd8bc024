"""Explain a job in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from datetime import timedelta

from django.db import router
from django.db.models import UniqueConstraint
from django.utils.translation import gettext as _

from ..columns.unique_keys import KEY_CONSTRAINT
from ..jobs.time_words import moment
from ..models import ContainerJob, JobStatus, UniqueUntil
from ..store import REFUSED_CLAIM
from .endings import explain_cancelled, explain_completed, explain_failed
from .explanation import Explanation, quoted
from .running import explain_running
from .waiting import explain_pending, explain_queued, explain_retrying

_BY_STATUS: Mapping[str, Callable[..., Explanation]] = {
    JobStatus.PENDING: explain_pending,
    JobStatus.QUEUED: explain_queued,
    JobStatus.RUNNING: explain_running,
    JobStatus.COMPLETED: explain_completed,
    JobStatus.FAILED: explain_failed,
    JobStatus.CANCELLED: explain_cancelled,
    JobStatus.RETRYING: explain_retrying,
}


def explain(job: ContainerJob, *, quotes_errors: bool = True, using: str | None = None) -> Explanation:
    """Say why a job waits, what it does now, or why it ended as it did, in the status that this instance has.

    ``quotes_errors``: whether it may quote error messages, which may quote what the job has printed, and its progress.
    It costs at most eight statements, each served by an index, however many jobs there are.
    """
    using = using or job._state.db or router.db_for_read(ContainerJob, instance=job)
    if not quotes_errors and job.last_error:
        job = copy(job)
        job.last_error = REFUSED_CLAIM if job.last_error.startswith(REFUSED_CLAIM) else ""
    options = {"quotes_progress": quotes_errors} if job.status == JobStatus.RUNNING else {}
    found = _BY_STATUS[job.status](job, using=using, **options)
    task = (_("It calls the task %s.") % quoted(job.task),) if job.task else ()
    return replace(found, evidence=(*task, *found.evidence, *_held_key(job, using=using)))


def _held_key(job: ContainerJob, *, using: str) -> Iterator[str]:
    """Say which unique key it holds, so that no other job is created with it, and until when."""
    [is_held] = [
        each.condition
        for each in ContainerJob._meta.constraints
        if isinstance(each, UniqueConstraint) and each.name == KEY_CONSTRAINT
    ]
    if not job.unique_key or not ContainerJob.objects.using(using).filter(is_held, pk=job.pk).exists():
        return
    if job.unique_seconds is not None:
        end = moment(job.created_at + timedelta(seconds=job.unique_seconds))
        yield _("Its unique key is %(key)s, which it holds until %(end)s.") % {
            "key": quoted(job.unique_key),
            "end": end,
        }
    elif job.unique_until == UniqueUntil.STARTED:
        yield _("It holds the unique key %s until it has started.") % quoted(job.unique_key)
    else:
        yield _("It holds the unique key %s until it has finished.") % quoted(job.unique_key)

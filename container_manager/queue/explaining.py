"""Explain a job in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy

from django.db import router

from ..models import ContainerJob, JobStatus
from ..store import REFUSED_CLAIM
from .endings import explain_cancelled, explain_completed, explain_failed
from .explanation import Explanation
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

    ``quotes_errors``: whether it may quote error messages, which may quote what the job has printed.
    It costs at most seven statements, each served by an index, however many jobs there are.
    """
    using = using or job._state.db or router.db_for_read(ContainerJob, instance=job)
    if not quotes_errors and job.last_error:
        job = copy(job)
        job.last_error = REFUSED_CLAIM if job.last_error.startswith(REFUSED_CLAIM) else ""
    return _BY_STATUS[job.status](job, using=using)

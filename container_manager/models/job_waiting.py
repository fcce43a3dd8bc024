"""Waiting for a job's end: when to look at its row, and the error of a job that has not completed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction

if TYPE_CHECKING:
    from .container_job import ContainerJob

# Between two looks at the row.
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.02, 1.0


class JobNotCompleted(RuntimeError):
    """A job whose result was waited for has failed, or was cancelled. ``job``: with its reason and last error."""

    def __init__(self, job: ContainerJob) -> None:
        self.job = job
        why = f" ({job.failure_reason}): {job.last_error}" if job.failure_reason else ""
        super().__init__(f"Job {job.pk} is {job.status}{why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job,)


def pauses_until_finished(job: ContainerJob, timeout: float | None) -> Iterator[float]:
    """Yield the seconds to wait before each next look at a job's row, until it has finished; then refresh the job.

    Raises what `ContainerJob.wait` raises.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE_SECONDS
    while True:
        # The status alone: a row can be large.
        job.refresh_from_db(fields=["status"])
        if job.is_finished:
            job.refresh_from_db()
            return
        if connections[job._state.db or DEFAULT_DB_ALIAS].in_atomic_block:
            raise transaction.TransactionManagementError(
                f"Job {job.pk} is {job.status}; wait for its end outside of transactions."
            )
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"Job {job.pk} is still {job.status} after {timeout} s.")
        yield min(pause, left)
        pause = min(pause * 1.5, _LAST_PAUSE_SECONDS)

"""Results of tasks, as the rows of their jobs and attempts have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from ..jobs.statuses import FailureReason, JobStatus
from ..jobs.task_failure import EXCEPTION, TRACEBACK
from .compat import Task, TaskError, TaskResult, TaskResultStatus
from .container_task import find_task, job_priority, task_priority
from .errors import ERRORS, TaskCancelled, TaskProcessEnded

if TYPE_CHECKING:
    # Tasks are declared before the models are there.
    from ..models import ContainerJob, JobAttempt

_STATUSES: Mapping[str, TaskResultStatus] = {
    JobStatus.PENDING: TaskResultStatus.READY,
    JobStatus.QUEUED: TaskResultStatus.READY,
    JobStatus.RETRYING: TaskResultStatus.READY,
    JobStatus.RUNNING: TaskResultStatus.RUNNING,
    JobStatus.COMPLETED: TaskResultStatus.SUCCESSFUL,
    JobStatus.FAILED: TaskResultStatus.FAILED,
    JobStatus.CANCELLED: TaskResultStatus.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerTaskResult(TaskResult):  # type: ignore[type-arg]  # only the backport's is generic
    """The result of a task that is a job. ``id`` is the job's primary key."""

    def cancel(self, *, now: bool = False, actor: object = None, reason: str = "") -> None:
        """Cancel the task, also one that runs: its process or container is stopped; ``now``: killed at once.

        Raises InvalidTransition where it has finished, and `TaskResultDoesNotExist` where the job was deleted.
        """
        from ..queue import cancel

        backend: Any = self.task.get_backend()
        cancel(backend.get_job(self.id), now=now, actor=actor, reason=reason)
        self.refresh()

    async def acancel(self, *, now: bool = False, actor: object = None, reason: str = "") -> None:
        """Do `cancel` from asynchronous code."""
        await sync_to_async(self.cancel)(now=now, actor=actor, reason=reason)


def task_result(job: ContainerJob, attempts: Sequence[JobAttempt], *, backend: str) -> ContainerTaskResult:
    """Return the result of a job; ``attempts``: all of them, in order; ``backend``: the alias of the one that is asked.

    Raises TaskNotFound if the code has no such task.
    """
    arguments = job.task_arguments or {}
    task = find_task(job.task)
    changes: dict[str, Any] = {"queue_name": job.queue, "run_after": job.scheduled_for, "backend": backend}
    if job_priority(task.priority) != job.priority:
        changes["priority"] = task_priority(job.priority)
    status = _STATUSES[job.status]
    result = ContainerTaskResult(
        task=_with(task, changes),
        id=str(job.pk),
        status=status,
        enqueued_at=job.created_at,
        started_at=attempts[0].launched_at if attempts else None,
        last_attempted_at=attempts[-1].launched_at if attempts else None,
        finished_at=job.status_changed_at if job.is_finished else None,
        args=arguments.get("args", []),
        kwargs=arguments.get("kwargs", {}),
        backend=backend,
        errors=_errors(job, attempts),
        worker_ids=[attempt.worker for attempt in attempts],
    )
    if status == TaskResultStatus.SUCCESSFUL and attempts:
        object.__setattr__(result, "_return_value", attempts[-1].result)
    return result


def _with(task: Task, changes: Mapping[str, Any]) -> Task:  # type: ignore[type-arg]
    """Return a task with other values, unchecked: an executor or a queue of old jobs may not be known any more."""
    changed = copy(task)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


def _errors(job: ContainerJob, attempts: Sequence[JobAttempt]) -> list[TaskError]:
    """Return an error for each attempt that failed, and one for a job that was cancelled."""
    errors = [_error(attempt) for attempt in attempts if attempt.reason]
    if job.status == JobStatus.CANCELLED:
        said = [f"Cancelled by {job.status_changed_by or 'somebody'}.", job.status_changed_reason]
        errors.append(_named(TaskCancelled, "\n".join(filter(None, said))))
    elif job.status == JobStatus.FAILED and not (attempts and attempts[-1].reason):
        errors.append(_named(ERRORS.get(job.failure_reason, TaskProcessEnded), job.last_error))
    return errors


def _error(attempt: JobAttempt) -> TaskError:
    handed_out = attempt.result if isinstance(attempt.result, dict) else {}
    trace = str(handed_out.get(TRACEBACK, ""))
    if attempt.reason == FailureReason.ERROR and EXCEPTION in handed_out:
        return TaskError(exception_class_path=str(handed_out[EXCEPTION]), traceback=trace)
    # Its exception, if there is one, comes from being stopped.
    return _named(ERRORS.get(attempt.reason, TaskProcessEnded), "\n\n".join(filter(None, [attempt.message, trace])))


def _named(error: type[Exception], text: str) -> TaskError:
    return TaskError(exception_class_path=f"{error.__module__}.{error.__qualname__}", traceback=text)

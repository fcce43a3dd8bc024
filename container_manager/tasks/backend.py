"""The backend for ``TASKS``: it makes a job of a task, and reads its result from the job's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured, ValidationError

from ..conf import app_settings, setting_problems
from .compat import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_enqueued,
)
from .container_task import TASK_OPTIONS, ContainerTask, job_fields, unique_fields
from .errors import TaskNotFound
from .task_checks import backend_messages
from .task_results import ContainerTaskResult, task_result

if TYPE_CHECKING:
    from ..models import ContainerJob

# Who submits the job: the project's code, which vouches for what the task declares.
_ACTOR = "task"


class ContainerTaskBackend(BaseTaskBackend):
    """Tasks as jobs: in processes, containers or pods, whatever the executor of the task is.

    ``OPTIONS`` are what tasks ask for that do not say so themselves: the options of `ContainerTask`.
    """

    task_class = ContainerTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        # Declared before there were models to check them by: `check` does that.
        self._unchecked: list[Task] = []  # type: ignore[type-arg]
        if odd := sorted(set(self.options) - set(TASK_OPTIONS)):
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}]['OPTIONS'] has no {odd[0]!r}. Known: {', '.join(sorted(TASK_OPTIONS))}."
            )

    def validate_task(self, task: Task) -> None:  # type: ignore[type-arg]
        """Raise InvalidTask for a task that no job can be made of."""
        super().validate_task(task)
        if not apps.models_ready:
            self._unchecked.append(task)
        elif problem := self._problem(task):
            raise InvalidTask(problem)

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> ContainerTaskResult:  # type: ignore[type-arg]
        """Make a job of a call, in the caller's transaction if there is one. Of a unique task return the one there is.

        Raises TypeError for arguments that are no JSON, and ValidationError where they are too large.
        """
        from ..queue import enqueue

        super().validate_task(task)
        job = enqueue(**self._job(task, args, kwargs), scheduled_for=task.run_after, actor=_ACTOR)
        return self.get_result(str(job.pk)) if job.existed else self._announce(task, job)

    def enqueue_many(
        self,
        task: Task,  # type: ignore[type-arg]
        calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> list[ContainerTaskResult]:
        """Make jobs of many calls, each its arguments and keyword arguments, in few statements, all or none."""
        from ..models import ContainerJob
        from ..queue import enqueue_many

        super().validate_task(task)
        jobs = [ContainerJob(**self._job(task, args, kwargs)) for args, kwargs in calls]
        queued = enqueue_many(jobs, scheduled_for=task.run_after, actor=_ACTOR)
        # Of a unique task there may be several calls with the same arguments.
        new = {job.pk: self._announce(task, job) for job in queued if not job.existed}
        return [new.get(job.pk) or self.get_result(str(job.pk)) for job in queued]

    async def aenqueue_many(
        self,
        task: Task,  # type: ignore[type-arg]
        calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> list[ContainerTaskResult]:
        """Do `enqueue_many` from asynchronous code."""
        return await sync_to_async(self.enqueue_many)(task, calls)

    def get_job(self, result_id: str) -> ContainerJob:
        """Return the job of a result. Raises TaskResultDoesNotExist."""
        from ..models import ContainerJob

        try:
            return ContainerJob.objects.exclude(task="").get(pk=UUID(result_id))
        except (ContainerJob.DoesNotExist, ValueError, AttributeError, TypeError) as error:
            raise TaskResultDoesNotExist(result_id) from error

    def get_result(self, result_id: str) -> ContainerTaskResult:
        """Return a result as the rows have it now.

        Raises TaskResultDoesNotExist where there is none, or where the code has no such task any more.
        """
        job = self.get_job(result_id)
        try:
            return task_result(job, list(job.attempts.order_by("number")), backend=self.alias)
        except TaskNotFound as error:
            raise TaskResultDoesNotExist(f"{result_id}: {error}") from error

    def check(self, **kwargs: Any) -> Iterator[CheckMessage]:
        """Report tasks that were declared before they could be checked, and are wrong."""
        yield from super().check(**kwargs)
        found = ((task.module_path, self._problem(task)) for task in self._unchecked)
        yield from backend_messages(self.alias, ((path, problem) for path, problem in found if problem))

    def _problem(self, task: Task) -> str:  # type: ignore[type-arg]
        """Return what is wrong with what a task asks for; "" if nothing is."""
        from ..models import ContainerJob

        if setting_problems():
            # They have a check of their own.
            return ""
        try:
            job = ContainerJob(**self._job(task, (), {}))
            job.submitted_by(_ACTOR)
            job.clean_fields(exclude=("status",))
            job.clean()
        except ValidationError as error:
            return "; ".join(f"{name}: {' '.join(said)}" for name, said in error.message_dict.items())
        except ValueError as error:
            return str(error)
        if job.executor not in (known := app_settings().executors):
            return f"There is no executor {job.executor!r}. Known: {', '.join(sorted(known))}."
        return ""

    def _job(self, task: Task, args: Any, kwargs: Any) -> dict[str, Any]:  # type: ignore[type-arg]
        arguments = {"args": normalize_json(list(args)), "kwargs": normalize_json(dict(kwargs))}
        unique = unique_fields(task, self.options, arguments)
        return {**job_fields(task, self.options), **unique, "task_arguments": arguments}

    def _announce(self, task: Task, job: ContainerJob) -> ContainerTaskResult:  # type: ignore[type-arg]
        arguments: Any = job.task_arguments
        result = ContainerTaskResult(
            task=task,
            id=str(job.pk),
            status=TaskResultStatus.READY,
            enqueued_at=job.created_at,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=arguments["args"],
            kwargs=arguments["kwargs"],
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        task_enqueued.send(type(self), task_result=result)
        return result

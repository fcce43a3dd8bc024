"""A task with what its job may ask for besides: image, memory, timeout, retries and so on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.utils.module_loading import import_string

from ..jobs.rules import is_count
from ..jobs.sizes import bytes_of
from ..jobs.spec import CODE_FIELDS, ENQUEUEING_FIELDS, JSON_FIELDS, OPTIONS, JobSpec
from .compat import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY, Task, TaskResult
from .errors import TaskNotFound

# What a job's priorities range over.
_MOST_PRIORITY = 100
# What a task says of itself, its call of its arguments, and the option ``unique`` of the key.
_OF_THE_TASK = ("name", "queue", "priority", *CODE_FIELDS, *ENQUEUEING_FIELDS)
_NUMBERS = ("integer", "number", "size")


def _option_of(name: str) -> str:
    """Return what an option is called: a number as on the command line, without its unit, all else as the field."""
    option = OPTIONS.get(name)
    return option.flag.strip("-").replace("-", "_") if option and option.kind in _NUMBERS else name


# Of an option here, the field of a job.
_FIELDS: Mapping[str, str] = {_option_of(name): name for name in JobSpec._fields if name not in _OF_THE_TASK}
TASK_OPTIONS = (*_FIELDS, "unique")
if TYPE_CHECKING:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class _AskingTask(Task[Any, Any]):
        # For type checkers alone: a test compares the names with those that are made below.
        executor: str | None = None
        image: str | None = None
        command: str | None = None
        environment: Mapping[str, str] | None = None
        secrets: Mapping[str, str] | None = None
        secret_files: Mapping[str, str] | None = None
        working_directory: str | None = None
        container: Mapping[str, Any] | None = None
        memory: int | str | None = None
        cpus: float | None = None
        timeout: int | None = None
        grace: int | None = None
        retries: int | None = None
        backoff: int | None = None
        labels: Mapping[str, str] | None = None

else:
    # A mapping has no hash.
    _AskingTask = make_dataclass(
        "_AskingTask",
        [
            (option, Any, field(default=None, hash=False if name in JSON_FIELDS else None))
            for option, name in _FIELDS.items()
        ],
        bases=(Task,),
        frozen=True,
        slots=True,
        kw_only=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerTask(_AskingTask):
    """What ``@task(…)`` makes. None: what the backend's ``OPTIONS`` say, else what a job has by default.

    ``memory``: bytes, or a text such as ``"512m"``. ``timeout`` and ``grace``: seconds; ``backoff``: those before the
    first retry. ``command``: what a container or a local process runs, by default
    ``python manage.py container run-task``. ``unique``: while a job of this task with the same arguments is there,
    `enqueue` returns that one: True or ``"finished"``: until it has finished; ``"started"``: until it has started; a
    number: for so many seconds. The others are the fields of a job (`container_manager.jobs.spec.JobSpec`), from which
    all but ``unique`` are made.
    """

    unique: bool | str | int | None = None

    def using(self, **changes: Any) -> Any:
        """Return a task with these values instead; None leaves one as it is."""
        if odd := sorted(set(changes) - {f.name for f in fields(self)} | set(changes) & {"func", "takes_context"}):
            raise TypeError(f"using() has no {odd[0]!r}.")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def enqueue_many(self, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]]) -> Sequence[TaskResult]:  # type: ignore[type-arg]
        """Enqueue many calls, each its arguments and keyword arguments, in few statements, all or none."""
        backend: Any = self.get_backend()
        results: Sequence[TaskResult] = backend.enqueue_many(self, calls)  # type: ignore[type-arg]
        return results

    async def aenqueue_many(self, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]]) -> Sequence[TaskResult]:  # type: ignore[type-arg]
        """Do `enqueue_many` from asynchronous code."""
        return await sync_to_async(self.enqueue_many)(calls)


def task_fields(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[type-arg]
    """Return the fields of a task's job, without its arguments. Raises ValueError for a malformed size."""
    given = {name: getattr(task, name, None) for name in _FIELDS}
    asked = {name: options.get(name) if value is None else value for name, value in given.items()}
    found = {_FIELDS[name]: value for name, value in asked.items() if value is not None}
    sizes = {name: value for name, value in found.items() if isinstance(value, str) and _is_size(name)}
    return {
        "command": "python manage.py container run-task",
        **found,
        **{name: bytes_of(text) for name, text in sizes.items()},
        "name": task.module_path[:255],
        "task": task.module_path,
        "queue": task.queue_name,
        "priority": job_priority(task.priority),
    }


def _is_size(name: str) -> bool:
    return name in OPTIONS and OPTIONS[name].kind == "size"


def unique_fields(task: Task, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[type-arg]
    """Return the fields by which a job is the only one of its task and arguments. Raises ValueError."""
    unique = options.get("unique") if (own := getattr(task, "unique", None)) is None else own
    if unique in (None, False):
        return {}
    said = json.dumps([task.module_path, arguments], sort_keys=True)
    fields_ = {"unique_key": f"task:{task.module_path[:150]}:{sha256(said.encode()).hexdigest()}"}
    if unique is True or unique == "finished":
        return fields_
    if unique == "started":
        return {**fields_, "unique_until": "started"}
    if is_count(unique):
        return {**fields_, "unique_seconds": unique}
    raise ValueError(f"unique is True, 'finished', 'started' or a number of seconds, not {unique!r}.")


def job_priority(priority: int) -> int:
    """Return a job's priority, 0 to 100, for a task's, -100 to 100: two of a task's are one of a job's."""
    return (int(priority) - TASK_MIN_PRIORITY) * _MOST_PRIORITY // (TASK_MAX_PRIORITY - TASK_MIN_PRIORITY)


def task_priority(priority: int) -> int:
    """Return the lower of the two priorities of a task that are this one of a job."""
    return priority * (TASK_MAX_PRIORITY - TASK_MIN_PRIORITY) // _MOST_PRIORITY + TASK_MIN_PRIORITY


def find_task(path: str) -> Task:  # type: ignore[type-arg]
    """Return the task of a dotted path. Raises TaskNotFound where the code has none, or none any more."""
    try:
        found = import_string(path)
    except ImportError as error:
        raise TaskNotFound(f"There is no task {path}: {error}") from error
    if not isinstance(found, Task):
        raise TaskNotFound(f"{path} is no task, but of type {type(found).__name__}.")
    return found

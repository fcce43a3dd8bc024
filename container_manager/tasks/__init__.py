"""Django's task framework on jobs: `ContainerTaskBackend` for ``TASKS``, and what `@task(…)` makes there."""

from .backend import ContainerTaskBackend
from .container_task import ContainerTask
from .errors import (
    TaskAttemptError,
    TaskCancelled,
    TaskLost,
    TaskNotFound,
    TaskNotStarted,
    TaskOutOfMemory,
    TaskProcessEnded,
    TaskTimedOut,
)
from .progress_report import report_progress
from .task_results import ContainerTaskResult

__all__ = [
    "ContainerTask",
    "ContainerTaskBackend",
    "ContainerTaskResult",
    "TaskAttemptError",
    "TaskCancelled",
    "TaskLost",
    "TaskNotFound",
    "TaskNotStarted",
    "TaskOutOfMemory",
    "TaskProcessEnded",
    "TaskTimedOut",
    "report_progress",
]

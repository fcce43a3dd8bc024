"""The named errors of attempts that did not end by an exception of the task: what `TaskResult.errors` has of them."""

from __future__ import annotations

from collections.abc import Mapping

from ..jobs.statuses import FailureReason


class TaskAttemptError(Exception):
    """Base of these errors. None is ever raised in a task."""


class TaskProcessEnded(TaskAttemptError):
    """Its process ended before the function had returned: by ``os._exit``, or by a signal."""


class TaskTimedOut(TaskAttemptError):
    """It ran for longer than its timeout allows, and was stopped."""


class TaskOutOfMemory(TaskAttemptError):
    """It needed more memory than its limit allows."""


class TaskNotStarted(TaskAttemptError):
    """It could not be started: its image, what it asks for, or its executor."""


class TaskLost(TaskAttemptError):
    """Nobody knows how it ended: its worker, its engine or its node was lost."""


class TaskCancelled(TaskAttemptError):
    """It was cancelled, before it started or while it ran."""


class TaskNotFound(ImportError):
    """There is no task of this name in the project's code, which this process has imported. Raised where it runs."""


# By the failure reason of an attempt.
ERRORS: Mapping[str, type[TaskAttemptError]] = {
    FailureReason.ERROR: TaskProcessEnded,
    FailureReason.SIGNAL: TaskProcessEnded,
    FailureReason.OOM: TaskOutOfMemory,
    FailureReason.TIMEOUT: TaskTimedOut,
    FailureReason.IMAGE: TaskNotStarted,
    FailureReason.START: TaskNotStarted,
    FailureReason.UNSCHEDULABLE: TaskNotStarted,
    FailureReason.UNAVAILABLE: TaskNotStarted,
    FailureReason.NODE_LOST: TaskLost,
    FailureReason.LOST: TaskLost,
}

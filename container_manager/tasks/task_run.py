"""Run a task in the process of its attempt, whichever executor started that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from django.db import connections
from django.utils import timezone

from ..conf import app_settings
from ..executors.base import RESULT_BYTES_VARIABLE, RESULT_VARIABLE
from ..jobs.json_value import json_text
from ..jobs.signal_names import exit_code_of
from ..jobs.task_failure import EXCEPTION, MESSAGE, MOST_MESSAGE_CHARACTERS, TRACEBACK
from .compat import (
    OWN_RECEIVERS,
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_finished,
    task_started,
)
from .container_task import find_task
from .task_results import ContainerTaskResult

# What a text takes as JSON beside its characters: quotes, and what says that a part of it is missing.
_QUOTES_BYTES, _CUT = 2, "…"
_STOPPED = exit_code_of(signal.SIGTERM)


def run_task(path: str, arguments: Mapping[str, Any]) -> int:
    """Run a task for the attempt that the environment names, and hand out what it returns; return the exit code.

    An exception of any kind fails the attempt, and so do a result that is no JSON or too large and an unknown task.
    SIGTERM raises SystemExit in the task, once.
    """
    # The task may change the environment.
    handout, job = os.environ.get(RESULT_VARIABLE, ""), os.environ.get("CONTAINER_MANAGER_JOB", "")
    most_bytes = _most_bytes()
    result: Any = None
    signal.signal(signal.SIGTERM, _stop)
    try:
        task = find_task(path)
        result = _running_result(task, job, arguments)
        sender = type(task.get_backend())
        task_started.send(sender, task_result=result)
        context = [TaskContext(task_result=result)] if task.takes_context else []
        value = normalize_json(task.call(*context, *result.args, **result.kwargs))
        text = _json(value, most_bytes)
        # It is done: too late to stop it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _fail(error, result, handout, most_bytes)
        return _STOPPED if isinstance(error, SystemExit) and error.code == _STOPPED else 1
    else:
        _hand_out(handout, text)
        _finish(result, TaskResultStatus.SUCCESSFUL, value=value)
        return 0
    finally:
        with contextlib.suppress(Exception):
            connections.close_all()


def _stop(*_: object) -> NoReturn:
    # Told again, it would be stopped while it cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(_STOPPED)


def _most_bytes() -> int:
    """Return how large a result may be: by the settings, and for the executor."""
    limit = app_settings().result_limit_bytes
    said = os.environ.get(RESULT_BYTES_VARIABLE, "")
    return min(limit, int(said)) if said.isdecimal() else limit


def _json(value: Any, most_bytes: int) -> str:
    try:
        return json_text(value, most_bytes=most_bytes)
    except ValueError as error:
        raise ValueError(f"What the task returned cannot be stored. {error}") from error


def _running_result(task: Task, job: str, arguments: Mapping[str, Any]) -> TaskResult:  # type: ignore[type-arg]
    """Return what the task and receivers of signals see of this run.

    The database is asked only where somebody looks at more than the framework's own logging does.
    """
    listeners = max(len(task_started.receivers), len(task_finished.receivers)) - OWN_RECEIVERS
    if job and (task.takes_context or listeners > 0):
        # A job of another database than this project's default one has no row here.
        with contextlib.suppress(TaskResultDoesNotExist):
            return task.get_backend().get_result(job)
    now = timezone.now()
    return ContainerTaskResult(
        task=task,
        id=job,
        status=TaskResultStatus.RUNNING,
        enqueued_at=None,
        started_at=now,
        last_attempted_at=now,
        finished_at=None,
        args=arguments.get("args", []),
        kwargs=arguments.get("kwargs", {}),
        backend=task.backend,
        errors=[],
        worker_ids=[],
    )


def _fail(
    error: BaseException,
    result: TaskResult | None,  # type: ignore[type-arg]  # only the backport's is generic
    handout: str,
    most_bytes: int,
) -> None:
    """Say how the task failed: in its output, to whoever reads its result, and to receivers of the signal."""
    kind = type(error)
    path = f"{kind.__module__}.{kind.__qualname__}"
    try:
        text, message = "".join(traceback.format_exception(error)), traceback.format_exception_only(error)[0]
    except Exception as failure:
        text = message = f"{path}: its traceback cannot be shown: {type(failure).__name__}\n"
    with contextlib.suppress(Exception):
        sys.stderr.write(text)
    text, message = _storable(text), _storable(message.strip().partition("\n")[0])[:MOST_MESSAGE_CHARACTERS]
    # Of a message the beginning says most, of a traceback its end.
    message = message[: _fitting(message, most_bytes // 4)]
    left = most_bytes - len(json.dumps({EXCEPTION: path, MESSAGE: message, TRACEBACK: _CUT}))
    if (kept := _fitting(reversed(text), left)) < len(text):
        text = f"{_CUT}{text[len(text) - kept :]}"
    _hand_out(handout, json.dumps({EXCEPTION: path, MESSAGE: message, TRACEBACK: text}))
    if result is not None:
        result.errors.append(TaskError(exception_class_path=path, traceback=text))
        _finish(result, TaskResultStatus.FAILED)


def _fitting(characters: Iterable[str], most_bytes: int) -> int:
    """Return how many characters, from the first on, take no more than so many bytes as JSON."""
    count = 0
    for character in characters:
        most_bytes -= len(json.dumps(character)) - _QUOTES_BYTES
        if most_bytes < 0:
            break
        count += 1
    return count


def _storable(text: str) -> str:
    """Return a text that every database stores."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _finish(result: TaskResult, status: TaskResultStatus, *, value: Any = None) -> None:  # type: ignore[type-arg]
    for name, new in (("finished_at", timezone.now()), ("status", status), ("_return_value", value)):
        object.__setattr__(result, name, new)
    # What a receiver raises is logged: how the task ended is decided.
    task_finished.send_robust(type(task_backends[result.backend]), task_result=result)


def _hand_out(handout: str, text: str) -> None:
    if handout:
        Path(handout).write_text(text, encoding="utf-8")

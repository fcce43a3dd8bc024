"""An executor that runs nothing: how each of its jobs ends is scripted by the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils.module_loading import import_string

from ..conf import app_settings
from ..executors.base import (
    Capabilities,
    Executor,
    ExecutorError,
    ExitStatus,
    Health,
    LaunchSpec,
    LogChunk,
    LogPage,
    Observation,
    Observations,
    Phase,
    Stream,
    Unavailable,
)

_SIGKILL, _SIGTERM = 9, 15


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRun:
    """How an attempt goes that only seems to run.

    ``exit``: its exit code, or an `ExitStatus` for all else: a signal, out of memory, lost. None: it runs until it is
    stopped. What it prints is there at once; a text is encoded as UTF-8. ``result``: the JSON value that it hands out.
    ``progress``: what it has written into its progress file.
    """

    exit: ExitStatus | int | None = 0
    stdout: str | bytes = b""
    stderr: str | bytes = b""
    result: object = None
    progress: str | bytes = b""


# What a script says of an attempt: how it goes, or the error that the engine answers its launch with.
Scripted = FakeRun | ExecutorError
# By the job's name, or a pattern of it as in `fnmatch`, of which the first that matches counts; or a function of the
# launch. A job that the mapping does not name ends with 0 and prints nothing.
Script = Mapping[str, Scripted] | Callable[[LaunchSpec], Scripted]


@dataclass(slots=True, kw_only=True)
class FakeJobs:
    """What the fake executors of this process do, and what they were asked to launch, in order."""

    script: Script
    launched: list[LaunchSpec] = field(default_factory=list)


# Each test may script its own within another one's; the last counts.
_SCRIPTED: list[FakeJobs] = []


@contextmanager
def fake_jobs(script: Script | None = None) -> Iterator[FakeJobs]:
    """Let every executor of the settings be a `FakeExecutor` meanwhile, that goes by this script; for `with`.

    Yields a `FakeJobs`: its ``script`` may be changed, ``launched`` tells what would have run. It holds for `run_job`
    and `run_queued_jobs`, which run in this process, and not for a worker in another one. An executor's LIMITS stay.
    """
    given = getattr(settings, "CONTAINER_MANAGER", {})
    path = f"{FakeExecutor.__module__}.{FakeExecutor.__qualname__}"
    executors = {
        alias: {"BACKEND": path, **({"LIMITS": entry["LIMITS"]} if "LIMITS" in entry else {})}
        for alias, entry in app_settings().executors.items()
    }
    fake = FakeJobs(script={} if script is None else script)
    with override_settings(CONTAINER_MANAGER={**given, "EXECUTORS": executors}):
        _SCRIPTED.append(fake)
        try:
            yield fake
        finally:
            _SCRIPTED.remove(fake)


@dataclass(slots=True, kw_only=True, eq=False)
class _FakeAttempt:
    key: str
    exit: ExitStatus | None
    chunks: list[LogChunk]
    progress: bytes = b""


class FakeExecutor(Executor):
    """Launches nothing, and reports for each attempt what the script of the test says.

    Within `fake_jobs` its script counts. Else that of the option ``script``: the dotted path of a mapping or a
    function, for a worker in a process of its own; without it each job ends with 0 and prints nothing.

    A script's function is called by the worker's own thread when the job is launched. With `run_job` that is the
    test's thread, so it may use the database, to cancel the job for example.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        survives_worker=False, isolates=True, launch_threads=0, secret_files=True
    )

    def __init__(self, *, script: str = "") -> None:
        try:
            self._script: Script = import_string(script) if script else {}
        except ImportError as error:
            raise ImproperlyConfigured(f"'script': {script} cannot be imported: {error}.") from error
        self._attempts: dict[str, _FakeAttempt] = {}
        self._changed = threading.Condition(threading.RLock())
        self._news = self._closed = False

    def submit(self, spec: LaunchSpec) -> str:
        with self._changed:
            if self._closed:
                raise Unavailable("The fake executor is closed.")
            if spec.key not in self._attempts:
                self._attempts[spec.key] = self._launch(spec)
                self._note_change()
            return spec.key

    def observe(self) -> Observations:
        with self._changed:
            return Observations(
                attempts=[
                    Observation(each.key, each.key, Phase.RUNNING if each.exit is None else Phase.EXITED, each.exit)
                    for each in self._attempts.values()
                ],
                as_of=time.monotonic(),
            )

    def watch(self, timeout: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._closed, timeout)
            news, self._news = self._news, False
            return news

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        with self._changed:
            if (attempt := self._attempts.get(handle)) is None:
                return LogPage([], cursor, complete=True)
            # All at once: it is in memory already.
            return LogPage(attempt.chunks[int(cursor or 0) :], str(len(attempt.chunks)), attempt.exit is not None)

    def progress(self, handle: str) -> bytes | None:
        with self._changed:
            return None if (attempt := self._attempts.get(handle)) is None else attempt.progress

    def stop(self, handle: str, grace_seconds: float) -> None:
        with self._changed:
            attempt = self._attempts.get(handle)
            if attempt is not None and attempt.exit is None:
                attempt.exit = ExitStatus(signal=_SIGTERM if grace_seconds > 0 else _SIGKILL)
                self._note_change()

    def remove(self, handle: str, *, failed: bool = False) -> None:
        with self._changed:
            self._attempts.pop(handle, None)

    def check(self) -> Health:
        return Health(ok=not self._closed, message="closed" if self._closed else "fake: runs nothing")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._attempts.clear()
            self._changed.notify_all()

    def _note_change(self) -> None:
        self._news = True
        self._changed.notify_all()

    def _launch(self, spec: LaunchSpec) -> _FakeAttempt:
        script = self._script
        if _SCRIPTED:
            _SCRIPTED[-1].launched.append(spec)
            script = _SCRIPTED[-1].script
        scripted = _look_up(script, spec)
        if isinstance(scripted, ExecutorError):
            raise scripted
        if not isinstance(scripted, FakeRun):
            raise TypeError(f"A fake executor's script must say a FakeRun or an ExecutorError, not {scripted!r}.")
        status = ExitStatus(code=scripted.exit) if isinstance(scripted.exit, int) else scripted.exit
        if status is not None and (scripted.result is not None or (spec.job.task and status.succeeded)):
            # A task that returns nothing hands out null.
            status = status._replace(result=json.dumps(scripted.result).encode())
        if status is not None:
            status = status._replace(progress=_encoded(scripted.progress) or None)
        texts: tuple[tuple[Stream, str | bytes], ...] = (("stdout", scripted.stdout), ("stderr", scripted.stderr))
        chunks = [LogChunk(stream=stream, data=_encoded(text)) for stream, text in texts if text]
        return _FakeAttempt(key=spec.key, exit=status, chunks=chunks, progress=_encoded(scripted.progress))


def _look_up(script: Script, spec: LaunchSpec) -> Scripted:
    if callable(script):
        return script(spec)
    return next((said for pattern, said in script.items() if fnmatchcase(spec.job.name, pattern)), FakeRun())


def _encoded(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text

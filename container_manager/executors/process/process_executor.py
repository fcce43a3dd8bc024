"""Run attempts as local processes: the embedded default. No isolation: a job can do what the worker's user can."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from django.core.exceptions import ImproperlyConfigured

from ...conf import AppSettings
from ...jobs.container_request import REQUEST_RULES
from ...jobs.rules import is_count, is_texts
from ..base import (
    PROGRESS_VARIABLE,
    RESULT_VARIABLE,
    SECRETS_VARIABLE,
    Capabilities,
    Executor,
    Health,
    LaunchSpec,
    LogPage,
    Observations,
    Rejected,
    Unavailable,
)
from ..secret_files import SecretFiles
from .result_files import ResultFile, ResultFiles

if sys.platform == "linux":
    # Elsewhere the class can be imported, by a web server say, but not used.
    from .local_job import KeeperLink, LocalJob
    from .output_pump import OutputPump
    from .warden_link import WardenLink, no_room, unavailable

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# By it all that a job has started is found, and ended with it.
_CHILDREN = Path("/proc/thread-self/children")


class ProcessExecutor(Executor):
    """Starts each attempt as a process in its own session, with only the environment that it was given.

    ``inherit_environment`` names variables to pass on from the worker. ``cpu_seconds`` and ``open_files`` limit each
    process of a job, and a job's ``memory_bytes`` limits its address space.

    A job that asks for what a local process cannot have (an ``image``, a ``cpu_count``, or anything in ``container``)
    fails with the reason ``start``. With ``ignore_isolation`` it runs without that, as may suit development.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        survives_worker=False, isolates=False, launch_threads=0, secret_files=True
    )

    def __init__(
        self,
        *,
        inherit_environment: Sequence[str] = (),
        cpu_seconds: int | None = None,
        open_files: int | None = None,
        ignore_isolation: bool = False,
    ) -> None:
        self._ignores_isolation = ignore_isolation
        self._inherited = {name: os.environ[name] for name in inherit_environment if name in os.environ}
        self._limits: dict[str, int] = {}
        if cpu_seconds is not None:
            self._limits["RLIMIT_CPU"] = cpu_seconds
        if open_files is not None:
            self._limits["RLIMIT_NOFILE"] = open_files
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._pump = OutputPump(self._lock, changed=self._announce_change)
        self._warden = self._new_warden()
        self._secret_files = SecretFiles(AppSettings().secret_files_directory, survive=False)
        self._results = ResultFiles(AppSettings().result_limit_bytes)
        self._closed = False

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        cls.check_options(options, settings)
        executor = cls(**options)
        executor._secret_files = SecretFiles(settings.secret_files_directory, survive=False)
        executor._results = ResultFiles(settings.result_limit_bytes)
        return executor

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        super().check_options(options, settings)
        for name in ("cpu_seconds", "open_files"):
            if options.get(name) is not None and not is_count(options[name]):
                raise ImproperlyConfigured(f"{name!r} must be a whole positive number, not {options[name]!r}.")
        if not is_texts(given := options.get("inherit_environment", ())):
            raise ImproperlyConfigured(f"'inherit_environment' must be a list of names, not {given!r}.")
        if not isinstance(given := options.get("ignore_isolation", False), bool):
            raise ImproperlyConfigured(f"'ignore_isolation' must be true or false, not {given!r}.")

    @classmethod
    def check_host(cls) -> None:
        missing = (
            "Linux" if sys.platform != "linux" else "" if _CHILDREN.exists() else f"{_CHILDREN} (CONFIG_PROC_CHILDREN)"
        )
        if missing:
            raise ImproperlyConfigured(
                f"Local processes need {missing}, which this host does not have. Run the worker on another host, in a "
                "Linux container for example, or use an executor that runs jobs in containers."
            )

    def submit(self, spec: LaunchSpec) -> str:
        self._check_request(spec)
        # Not waiting for the start is faster, so an error of it is reported as an end.
        with self._lock:
            if spec.key not in self._pump.jobs:
                self._launch(spec)
        return spec.key

    def observe(self) -> Observations:
        with self._lock:
            attempts = [job.observation() for job in self._pump.jobs.values()]
            return Observations(attempts=attempts, as_of=time.monotonic())

    def watch(self, timeout: float) -> bool:
        changed = self._changed.wait(timeout)
        self._changed.clear()
        return changed

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        with self._lock:
            job = self._pump.jobs.get(handle)
            if job is None:
                return LogPage(chunks=(), cursor=cursor, complete=True)
            chunks, after = job.output.take(cursor, limit)
            if job.paused and not job.output.is_full:
                self._pump.resume(job)
            return LogPage(chunks=chunks, cursor=after, complete=not chunks and job.has_ended)

    def progress(self, handle: str) -> bytes | None:
        with self._lock:
            job = self._pump.jobs.get(handle)
        return None if job is None else job.result.progress()

    def stop(self, handle: str, grace_seconds: float) -> None:
        with self._lock:
            # Under the lock: its keeper must not have another job by the time that it hears of this.
            if (job := self._pump.jobs.get(handle)) is not None and job.keeper is not None:
                job.keeper.stop(grace_seconds)

    def remove(self, handle: str, *, failed: bool = False) -> None:
        with self._lock:
            self._pump.remove(handle)
            self._secret_files.remove(handle)

    def check(self) -> Health:
        try:
            with self._lock:
                self._start()
        except Unavailable as error:
            return Health(ok=False, message=str(error))
        return Health(ok=True, message="Local processes, without isolation.")

    def heartbeat(self, seconds: float) -> None:
        with self._lock:
            self._warden.heartbeat(seconds)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._changed.set()
        self._pump.close()
        self._warden.close()
        self._secret_files.close()
        self._results.close()

    def _new_warden(self) -> WardenLink:
        return WardenLink()

    def _check_request(self, spec: LaunchSpec) -> None:
        """Raise Rejected for a job that cannot be a process here."""
        self._check_isolation(spec)
        if not spec.argv:
            raise Rejected("start", "There is no command to run: a local process needs one.")

    def _check_isolation(self, spec: LaunchSpec) -> None:
        if not self._ignores_isolation and (asked := _isolation_asked_for(spec)):
            raise Rejected(
                "start",
                f"A local process cannot have what the job asks for: {', '.join(asked)}. Use an executor that isolates "
                "jobs, or set this one's option 'ignore_isolation'.",
            )

    def _program(self, spec: LaunchSpec) -> dict[str, Any]:
        """Return what a launch says of the program to run."""
        return {"argv": spec.argv}

    def _announce_change(self) -> None:
        # A method, so that the pump's thread keeps this executor, and with it the warden, until it is closed.
        self._changed.set()

    def _start(self) -> None:
        """Make sure that warden and pump run."""
        if self._closed:
            raise Unavailable("This executor is closed.")
        if self._warden.start():
            # Those of a warden that is gone end by themselves.
            self._pump.end_idle()
            self._pump.start()
            self._new_keeper()

    def _new_keeper(self) -> None:
        self._pump.add_keeper(KeeperLink(self._warden.new_keeper(), warden=self._warden))

    def _launch(self, spec: LaunchSpec) -> None:
        self._start()
        result = self._results.of(spec.key)
        message = self._message(spec, result)
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as passed:
            try:
                out_reader, out_writer = _pipe(kept, passed)
                err_reader, err_writer = _pipe(kept, passed)
            except OSError as error:
                raise no_room(error) from error
            job = LocalJob(spec=spec, open_streams={out_reader: "stdout", err_reader: "stderr"}, result=result)
            self._hand_over(job, message, (out_writer, err_writer))
            kept.pop_all()
        self._pump.add(job)

    def _hand_over(self, job: LocalJob, message: bytes, streams: Sequence[int]) -> None:
        """Give a job to a keeper that waits, else to a new one."""
        while True:
            is_new = not self._pump.idle
            if is_new:
                self._new_keeper()
            keeper = self._pump.idle.pop()
            try:
                keeper.launch(job, message, streams)
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    # Nothing was sent.
                    self._pump.idle.append(keeper)
                else:
                    keeper.end()
                if is_new or error.errno == errno.ETOOMANYREFS:
                    raise unavailable(error) from error
            else:
                return

    def _message(self, spec: LaunchSpec, result: ResultFile) -> bytes:
        limits = dict(self._limits)
        if spec.job.memory_bytes is not None:
            limits["RLIMIT_AS"] = spec.job.memory_bytes
        environment = {"PATH": _DEFAULT_PATH, "LANG": "C.UTF-8", **self._inherited, **spec.environment}
        environment |= {RESULT_VARIABLE: result.path, PROGRESS_VARIABLE: result.progress_path}
        if spec.secret_files:
            environment[SECRETS_VARIABLE] = str(self._secret_files.place(spec.key, spec.secret_files))
        launch = {
            **self._program(spec),
            "environment": environment,
            "working_directory": spec.job.working_directory,
            "limits": limits,
        }
        return json.dumps(launch).encode()


def _isolation_asked_for(spec: LaunchSpec) -> list[str]:
    """Return what the job asks for that a local process cannot have; what is off or empty is not asked for."""
    asked = [name for name in ("image", "cpu_count") if getattr(spec.job, name)]
    return asked + [name for name in REQUEST_RULES if getattr(spec.container, name)]


def _pipe(reads: contextlib.ExitStack, writes: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe whose two ends are closed with what is given for each."""
    reader, writer = os.pipe()
    reads.callback(os.close, reader)
    writes.callback(os.close, writer)
    return reader, writer

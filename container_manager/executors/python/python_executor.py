"""Run tasks on the worker's host, each in a process forked from one that has imported the project (the task server)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ...conf import AppSettings
from ...jobs.package_log import package_logger
from ...jobs.rules import is_texts
from ..base import DependencyUnavailable, Health, LaunchSpec, Rejected, Unavailable, Waiting
from ..process.process_executor import ProcessExecutor

if sys.platform == "linux":
    from .task_server_link import SETTINGS_VARIABLE, TaskServerLink, settings_module

# How long a check waits for that.
_IMPORT_SECONDS = 60.0
logger = package_logger(__name__)


class PythonExecutor(ProcessExecutor):
    """Runs each attempt of a task in a process of its own, which costs a fork: the project is imported already.

    It is a `ProcessExecutor` in all else: a session, limits, timeout, output, and an environment of its own. The limit
    of the address space counts what the task server has mapped too.

    ``preload`` names modules to import beforehand, besides the module ``tasks`` of each installed app.
    """

    _warden: TaskServerLink

    def __init__(
        self,
        *,
        preload: Sequence[str] = (),
        inherit_environment: Sequence[str] = (),
        cpu_seconds: int | None = None,
        open_files: int | None = None,
        ignore_isolation: bool = False,
    ) -> None:
        self._preload = tuple(preload)
        # Launches that wait for the task server, by key.
        self._waiting: dict[str, Future[None]] = {}
        # Of code that was read before; they end with their last jobs.
        self._retired: list[TaskServerLink] = []
        self._successor: TaskServerLink | None = None
        super().__init__(
            inherit_environment=(SETTINGS_VARIABLE, *inherit_environment),
            cpu_seconds=cpu_seconds,
            open_files=open_files,
            ignore_isolation=ignore_isolation,
        )

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        super().check_options(options, settings)
        if not is_texts(given := options.get("preload", ())):
            raise ImproperlyConfigured(f"'preload' must be a list of modules, not {given!r}.")

    @classmethod
    def check_host(cls) -> None:
        super().check_host()
        if not settings_module():
            raise ImproperlyConfigured(
                "The task server imports the project's settings by their module's name. Put them into a module, and "
                f"its name into {SETTINGS_VARIABLE}, instead of settings.configure()."
            )

    def submit(self, spec: LaunchSpec) -> str:
        self._check_request(spec)
        with self._lock:
            if spec.key not in self._pump.jobs:
                if failure := self._warden.recent_failure:
                    raise DependencyUnavailable(failure)
                self._start()
                if not self._warden.is_ready:
                    until = self._waiting.setdefault(spec.key, Future())
                    raise Waiting("the task server, which imports the project", until)
                self._launch(spec)
        return spec.key

    def stop(self, handle: str, grace_seconds: float) -> None:
        self._end_wait([handle], Rejected("start", "It was stopped before it had started."))
        super().stop(handle, grace_seconds)

    def remove(self, handle: str, *, failed: bool = False) -> None:
        self.release(handle)
        super().remove(handle, failed=failed)

    def release(self, handle: str) -> None:
        self._end_wait([handle], Unavailable("It is followed no more."))

    def check(self) -> Health:
        health = super().check()
        if not health.ok:
            return health
        self._warden.settled.wait(_IMPORT_SECONDS)
        if not self._warden.is_ready:
            return Health(ok=False, message=self._warden.recent_failure or "The task server still imports the project.")
        return Health(ok=True, message="Tasks in processes forked from the task server, without isolation.")

    def heartbeat(self, seconds: float) -> None:
        with self._lock:
            for link in self._links():
                link.heartbeat(seconds)
            busy = {keeper.warden for keeper in self._pump.keepers}
            for link in [link for link in self._retired if link not in busy]:
                self._retired.remove(link)
                link.close()

    def close(self) -> None:
        super().close()
        for link in self._links():
            link.close()
        self._end_wait(list(self._waiting), Unavailable("This executor is closed."))

    def reload(self) -> None:
        """Have a new task server import the code as it is now; tasks go to it once it is ready.

        If it cannot import the project, tasks go on with the code that was read before.
        """
        with self._lock:
            if self._closed or self._successor is not None:
                return
            successor = self._new_warden()
            try:
                successor.start()
            except Unavailable as error:
                logger.error("The code cannot be read again: %s", error)
            else:
                self._successor = successor

    def _links(self) -> list[TaskServerLink]:
        return [self._warden, *self._retired, *([self._successor] if self._successor else [])]

    def _new_warden(self) -> TaskServerLink:
        return TaskServerLink(preload=self._preload, note_ready=self._note_ready, note_hangup=self.reload)

    def _note_ready(self, link: TaskServerLink, error: str) -> None:
        """Take note that a task server is ready, or has ended with an error (a thread of its link's)."""
        with self._lock:
            if self._closed:
                return
            if link is self._successor:
                self._successor = None
                if not error:
                    self._replace_warden(link)
            waits = list(self._waiting) if link is self._warden else []
        if error:
            logger.error("%s", error)
        self._end_wait(waits, DependencyUnavailable(error) if error else None)

    def _replace_warden(self, link: TaskServerLink) -> None:
        self._retired.append(self._warden)
        self._warden = link
        self._pump.retire_keepers()
        logger.info("A new task server has imported the project, pid=%s", link.process and link.process.pid)

    def _end_wait(self, keys: Sequence[str], error: Exception | None) -> None:
        with self._lock:
            waits = [self._waiting.pop(key) for key in keys if key in self._waiting]
        # Not under the lock: who waits may submit at once.
        for until in waits:
            if error is None:
                until.set_result(None)
            else:
                until.set_exception(error)

    def _check_request(self, spec: LaunchSpec) -> None:
        if not spec.job.task:
            raise Rejected(
                "start", "The Python executor runs tasks only. Use another one for commands, such as ProcessExecutor."
            )
        self._check_isolation(spec)

    def _program(self, spec: LaunchSpec) -> dict[str, Any]:
        return {"task": spec.job.task, "arguments": spec.job.task_arguments}

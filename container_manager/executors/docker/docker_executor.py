"""Run attempts as containers of one Docker daemon: the executors' contract, call by call."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from django.core.exceptions import ImproperlyConfigured

from ...conf import AppSettings
from ..base import Capabilities, Executor, Health, LaunchSpec, LogPage, Observations, Phase, Unavailable
from .configuration import container_configuration
from .containers import Containers
from .daemon import RETRY_SECONDS, Daemon, Gone, identity, seconds
from .exits import PHASES
from .followed_output import FollowedOutput
from .images import Images
from .options import DockerOptions, docker_options
from .view import View


class DockerExecutor(Executor):
    """Starts each attempt as a hardened container with the attempt's key as its name.

    ``install`` tells the containers of this installation from others on the same daemon. Each daemon has an executor
    of its own.
    """

    # Measured on two cores: more than four launches at a time are no faster.
    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=True, launch_threads=4)

    def __init__(self, options: DockerOptions, *, install: str, secrets_directory: str) -> None:
        self._options, self._install = options, install
        self._daemon = Daemon(options)
        self._changed = threading.Event()
        self._view = View(self._daemon, install=install, changed=self._changed.set)
        self._containers = Containers(
            self._daemon,
            self._view,
            Images(self._daemon, options, secrets_directory=secrets_directory),
            pull=options.pull,
        )
        self._lock = threading.Lock()
        self._outputs: dict[str, FollowedOutput] = {}
        self._stopping: set[str] = set()
        self._closed = threading.Event()

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        cls.check_options(options, settings)
        return cls(docker_options(options), install=settings.install, secrets_directory=settings.secrets_directory)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        docker_options(options)
        # The default itself, or what `for_database` derives from it.
        if f"{settings.install}-".startswith(f"{AppSettings().install}-"):
            raise ImproperlyConfigured(
                "CONTAINER_MANAGER['INSTALL'] must name this installation where containers are run: another one on the "
                "same daemon is told apart by it, and what belongs to nobody is removed."
            )
        if str(options.get("base_url", "")).startswith("ssh://") and find_spec("paramiko") is None:
            raise ImproperlyConfigured(
                "A daemon at ssh:// needs the SDK's part for it: pip install 'django-container-manager[docker-ssh]'."
            )

    def submit(self, spec: LaunchSpec) -> str:
        configuration = container_configuration(
            spec, self._options, install=self._install, flavour=self._daemon.flavour()
        )
        output = self._output(spec.key)
        self._containers.launch(spec, configuration, note=output.note)
        output.follow()
        return spec.key

    def observe(self) -> Observations:
        return self._view.observe()

    def watch(self, timeout: float) -> bool:
        changed = self._changed.wait(timeout)
        self._changed.clear()
        return changed

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        output, phase = self._output(handle), self._view.phase(handle)
        # Where there is no container there is no more to come, and one that was only created has printed nothing.
        if phase in (Phase.RUNNING, Phase.EXITED):
            output.follow()
        return output.page(cursor, limit, has_exited=phase is Phase.EXITED)

    def stop(self, handle: str, grace_seconds: float) -> None:
        self._containers.cancel(handle)
        with self._lock:
            if handle in self._stopping:
                return
            self._stopping.add(handle)
        most = self._options.grace_seconds
        seconds_left = math.ceil(grace_seconds if most is None else min(grace_seconds, most))
        name, arguments = f"container-manager-stop-{handle}", (handle, seconds_left)
        threading.Thread(target=self._stop, args=arguments, name=name, daemon=True).start()

    def remove(self, handle: str, *, failed: bool = False) -> None:
        self.release(handle)
        if not (failed and self._is_to_be_kept(handle)):
            self._daemon.remove(handle)
            self._view.forget(handle)

    def release(self, handle: str) -> None:
        with self._lock:
            output = self._outputs.pop(handle, None)
        self._containers.forget(handle)
        if output is not None:
            output.close()

    def check(self) -> Health:
        if self._closed.is_set():
            return Health(ok=False, message="This executor is closed.")
        try:
            with self._daemon.client() as api:
                info = api.info()
            flavour = self._daemon.flavour()
        except (Unavailable, Gone) as error:
            return Health(ok=False, message=f"{error} A Docker daemon must run there and let this user in.")
        running = info["ContainersRunning"]
        return Health(
            ok=True,
            message=f"{flavour.name} {info['ServerVersion']} on {info['Name']}, {running} containers running.",
            engine=identity(info, flavour),
            cpu_count=info["NCPU"],
            memory_bytes=info["MemTotal"],
        )

    def heartbeat(self, seconds: float) -> None:
        self._containers.heartbeat(seconds)

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._containers.close()
        self._view.close()
        with self._lock:
            outputs = list(self._outputs.values())
        for output in outputs:
            output.close()

    def _output(self, key: str) -> FollowedOutput:
        with self._lock:
            if key not in self._outputs:
                self._outputs[key] = FollowedOutput(key, self._daemon, self._changed.set)
                if self._closed.is_set():
                    self._outputs[key].close()
            return self._outputs[key]

    def _stop(self, handle: str, grace_seconds: int) -> None:
        """Stop a container, and retry while the daemon does not answer (a thread of its own)."""
        try:
            while not self._closed.is_set():
                try:
                    self._daemon.stop(handle, grace_seconds)
                except Gone:
                    return
                except Unavailable:
                    self._closed.wait(RETRY_SECONDS)
                else:
                    return
        finally:
            with self._lock:
                self._stopping.discard(handle)

    def _is_to_be_kept(self, handle: str) -> bool:
        if not self._options.keep_failed_seconds:
            return False
        try:
            state = self._daemon.inspect(handle)["State"]
        except Gone:
            return False
        if PHASES.get(state["Status"]) is not Phase.EXITED:
            return False
        return self._daemon.now() - seconds(state["FinishedAt"]) < self._options.keep_failed_seconds

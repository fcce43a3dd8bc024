"""Run attempts as containers of one Docker daemon: the executors' contract, call by call."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from django.core.exceptions import ImproperlyConfigured

from ...conf import AppSettings
from ...jobs.sizes import MOST_SECONDS
from ..allow_lists import check_install, is_allowed_image
from ..base import Capabilities, Executor, Health, LaunchSpec, LogPage, Observations, Phase, Rejected, Unavailable
from ..secret_files import SecretFiles
from .configuration import add_secret_files, container_configuration, fit_cores, volume_owners
from .containers import Containers
from .daemon import RETRY_SECONDS, Daemon, identity, seconds
from .daemon_answers import Gone
from .exits import PHASES
from .followed_output import FollowedOutput
from .held_limits import take_limits, warnings
from .images import Images
from .options import DockerOptions, docker_options
from .polled_progress import PolledProgress
from .result_archives import offer_files
from .upkeep import Upkeep
from .view import View


class DockerExecutor(Executor):
    """Starts each attempt as a hardened container with the attempt's key as its name.

    ``install`` tells the containers of this installation from others on the same daemon. Each daemon has an executor
    of its own.
    """

    # Measured on two cores: more than four launches at a time are no faster.
    capabilities: ClassVar[Capabilities] = Capabilities(
        survives_worker=True, isolates=True, launch_threads=4, secret_files=True
    )

    def __init__(
        self,
        options: DockerOptions,
        *,
        install: str,
        secrets_directory: str,
        secret_files_directory: str = AppSettings().secret_files_directory,
        most_result_bytes: int = AppSettings().result_limit_bytes,
    ) -> None:
        self._options, self._install = options, install
        self._daemon = Daemon(options)
        self._changed = threading.Event()
        self._view = View(self._daemon, install=install, most_result_bytes=most_result_bytes, changed=self._changed.set)
        images = Images(self._daemon, options, secrets_directory=secrets_directory)
        self._containers = Containers(self._daemon, self._view, images, pull=options.pull)
        self._upkeep = Upkeep(self._daemon, images, options)
        self._secret_files = SecretFiles(secret_files_directory, survive=True)
        self._progress = PolledProgress(self._daemon)
        self._lock = threading.Lock()
        self._outputs: dict[str, FollowedOutput] = {}
        # By when each is to be stopped, in monotonic seconds.
        self._stopping: dict[str, float] = {}
        self._closed = threading.Event()

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        cls.check_options(options, settings)
        return cls(
            docker_options(options),
            install=settings.install,
            secrets_directory=settings.secrets_directory,
            secret_files_directory=settings.secret_files_directory,
            most_result_bytes=settings.result_limit_bytes,
        )

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        given = docker_options(options)
        if unknown := [image for image in given.prepull if not is_allowed_image(image, given.images) or "*" in image]:
            raise ImproperlyConfigured(
                f"The option 'prepull' must name images that the option 'images' allows, not a pattern: {unknown[0]!r}."
            )
        check_install(settings)
        if str(options.get("base_url", "")).startswith("ssh://") and find_spec("paramiko") is None:
            raise ImproperlyConfigured(
                "A daemon at ssh:// needs the SDK's part for it: pip install 'django-container-manager[docker-ssh]'."
            )

    def submit(self, spec: LaunchSpec) -> str:
        if spec.secret_files:
            self._require_own_host()
        configuration = container_configuration(
            spec, self._options, install=self._install, flavour=self._daemon.flavour()
        )
        if spec.secret_files:
            add_secret_files(configuration, self._secret_files.place(spec.key, spec.secret_files))
        offer_files(configuration, result=self._options.results or bool(spec.job.task), progress=self._options.progress)
        self._require_limits(configuration["HostConfig"])
        output = self._output(spec.key)
        if "NanoCpus" in configuration["HostConfig"]:
            cores = self._daemon.cores()
            if fit_cores(configuration, cores) and spec.job.cpu_count:
                output.note_once(f"The job asks for {spec.job.cpu_count:g} cores; the daemon's host has {cores}.")
        self._upkeep.note_use(spec.job.image)
        owners = volume_owners(spec, self._options)
        self._containers.launch(spec, configuration, note=output.note, owners=owners)
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

    def progress(self, handle: str) -> bytes | None:
        return self._progress.latest(handle) if self._options.progress else None

    def stop(self, handle: str, grace_seconds: float) -> None:
        self._containers.cancel(handle)
        deadline = time.monotonic() + grace_seconds
        with self._lock:
            if self._stopping.get(handle, math.inf) <= deadline:
                return
            self._stopping[handle] = deadline
        seconds_left = math.ceil(min(grace_seconds, MOST_SECONDS))
        name, arguments = f"container-manager-stop-{handle}", (handle, seconds_left, deadline)
        threading.Thread(target=self._stop, args=arguments, name=name, daemon=True).start()

    def remove(self, handle: str, *, failed: bool = False) -> None:
        self.release(handle)
        if not (failed and self._is_to_be_kept(handle)):
            self._daemon.remove(handle)
            self._view.forget(handle)
        # A container that is kept has ended.
        self._secret_files.remove(handle)

    def release(self, handle: str) -> None:
        with self._lock:
            output = self._outputs.pop(handle, None)
        self._containers.forget(handle)
        self._progress.forget(handle)
        if output is not None:
            output.close()

    def check(self) -> Health:
        if self._closed.is_set():
            return Health(ok=False, message="This executor is closed.")
        try:
            info, flavour = self._daemon.info(), self._daemon.flavour()
        except (Unavailable, Gone) as error:
            return Health(ok=False, message=f"{error} A Docker daemon must run there and let this user in.")
        running = info["ContainersRunning"]
        return Health(
            ok=True,
            message=f"{flavour.name} {info['ServerVersion']} on {info['Name']}, {running} containers running.",
            warnings=tuple(warnings(info, storage=self._options.storage_bytes is not None)),
            engine=identity(info, flavour),
            cpu_count=info["NCPU"],
            memory_bytes=info["MemTotal"],
        )

    def maintain(self) -> None:
        self._upkeep.begin()

    def heartbeat(self, seconds: float) -> None:
        self._containers.heartbeat(seconds)

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._upkeep.close()
        self._containers.close()
        self._view.close()
        self._progress.close()
        with self._lock:
            outputs = list(self._outputs.values())
        for output in outputs:
            output.close()

    def _require_limits(self, host: dict[str, Any]) -> None:
        """Reject a job with a limit that the daemon cannot hold, or take the limit out where the options say so."""
        missing = self._daemon.missing_limits()
        if (taken := take_limits(host, missing)) and not self._options.ignore_missing_limits:
            said = "; ".join(f"{name}, since {missing[name]}" for name in taken)
            raise Rejected(
                "start",
                f"The Docker daemon cannot hold limits of this job: {said}. Repair that, or let jobs run without such "
                "limits by the executor's option 'ignore_missing_limits'.",
            )

    def _output(self, key: str) -> FollowedOutput:
        with self._lock:
            if key not in self._outputs:
                self._outputs[key] = FollowedOutput(key, self._daemon, self._changed.set)
                if self._closed.is_set():
                    self._outputs[key].close()
            return self._outputs[key]

    def _require_own_host(self) -> None:
        if not self._options.base_url.startswith("unix://"):
            raise Rejected(
                "start", "The job has secrets that are files: these need a daemon on the worker's host, at unix://."
            )

    def _stop(self, handle: str, grace_seconds: int, deadline: float) -> None:
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
                # Not that of a shorter grace period, which was asked for meanwhile.
                if self._stopping.get(handle) == deadline:
                    del self._stopping[handle]

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

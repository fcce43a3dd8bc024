"""Run attempts as containers of one Docker daemon: the contract of executors, call by call."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import docker
from django.core.exceptions import ImproperlyConfigured
from docker.errors import APIError

from ...conf import AppSettings
from ..base import (
    Capabilities,
    Executor,
    ExecutorError,
    ExitStatus,
    Health,
    LaunchSpec,
    LogPage,
    Observations,
    Phase,
    Rejected,
    Unavailable,
)
from .configuration import container_configuration
from .daemon import Daemon, Gone, explanation
from .exits import INIT_FAILURES, PHASES, exit_status
from .images import Images
from .options import DockerOptions, docker_options
from .output import Output
from .view import View

_CONFLICT = 409
# Here the daemon answers 500, as it does where something may be better next time (measured with 20.10).
_FINAL_FAILURES = ("OCI runtime", "unable to find user", "unable to find group", "Cannot mkdir")
# What it answers of a container that ran when it died, though not as far as it knows (measured with 20.10).
_STARTED_BEFORE = re.compile("task [0-9a-f]+: already exists")
_RETRY_SECONDS = 1.0
_LAST_WORDS_BYTES = 4096


class DockerExecutor(Executor):
    """Starts each attempt as a container that is named for it, hardened, and with what the settings allow.

    ``install`` tells the containers of this installation from others' on the same daemon. Several daemons are several
    executors.
    """

    # Measured on two cores: more than four launches at a time make none of them sooner.
    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=True, launch_threads=4)

    def __init__(self, options: DockerOptions, *, install: str, secrets_directory: str) -> None:
        self._options, self._install = options, install
        self._daemon = Daemon(options)
        self._images = Images(self._daemon, options, secrets_directory=secrets_directory)
        self._changed = threading.Event()
        self._view = View(self._daemon, install=install, exit_status=self._exit_status, changed=self._changed.set)
        self._lock = threading.Lock()
        self._launch_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._outputs: dict[str, Output] = {}
        self._launching: set[str] = set()
        self._given_up: set[str] = set()
        # Those whose start was asked for, and the daemon has not said how it went.
        self._unanswered: set[str] = set()
        self._stopping: set[str] = set()
        self._closed = threading.Event()
        self._alive_until: float | None = None

    @classmethod
    def from_settings(cls, options: Mapping[str, Any], settings: AppSettings) -> Self:
        cls.check_options(options, settings)
        return cls(docker_options(options), install=settings.install, secrets_directory=settings.secrets_directory)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: AppSettings) -> None:
        docker_options(options)
        # The default itself, or what `for_database` makes of it.
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
        configuration = container_configuration(spec, self._options, install=self._install)
        with self._lock:
            self._launching.add(spec.key)
            lock = self._launch_locks[spec.key]
        try:
            # To start a container that has exited would run it again: nobody may start one that another thread starts.
            with lock:
                found = self._view.find(spec.key)
                if found is None or found.phase is Phase.CREATED:
                    self._launch(spec, configuration)
        finally:
            with self._lock:
                self._launching.discard(spec.key)
                self._given_up.discard(spec.key)
        self._output(spec.key).follow()
        return spec.key

    def observe(self) -> Observations:
        return self._view.look()

    def watch(self, timeout: float) -> bool:
        changed = self._changed.wait(timeout)
        self._changed.clear()
        return changed

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        output, found = self._output(handle), self._view.find(handle)
        # Where there is no container there is no more to come, and one that still waits for its launch has none yet.
        if found is not None and found.phase is not Phase.CREATED:
            output.follow()
        return output.page(cursor, limit, has_exited=found is not None and found.phase is Phase.EXITED)

    def stop(self, handle: str, grace_seconds: float) -> None:
        with self._lock:
            if handle in self._launching:
                self._given_up.add(handle)
                self._images.break_off(handle)
            if handle in self._stopping:
                return
            self._stopping.add(handle)
        name, arguments = f"container-manager-stop-{handle}", (handle, math.ceil(grace_seconds))
        threading.Thread(target=self._stop, args=arguments, name=name, daemon=True).start()

    def remove(self, handle: str, *, failed: bool = False) -> None:
        self.release(handle)
        if not (failed and self._is_to_be_kept(handle)):
            self._remove(handle)

    def release(self, handle: str) -> None:
        with self._lock:
            output = self._outputs.pop(handle, None)
            self._launch_locks.pop(handle, None)
            self._unanswered.discard(handle)
        if output is not None:
            output.close()

    def check(self) -> Health:
        if self._closed.is_set():
            return Health(ok=False, message="This executor is closed.")
        try:
            with self._daemon.asked() as api:
                info = api.info()
        except (Unavailable, Gone) as error:
            return Health(ok=False, message=str(error))
        running = info["ContainersRunning"]
        return Health(
            ok=True,
            message=f"Docker {info['ServerVersion']} on {info['Name']}, {running} containers running.",
            cpu_count=info["NCPU"],
            memory_bytes=info["MemTotal"],
        )

    def heartbeat(self, seconds: float) -> None:
        self._alive_until = time.monotonic() + seconds

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._view.close()
        self._images.break_off()
        with self._lock:
            outputs = list(self._outputs.values())
        for output in outputs:
            output.close()

    def _launch(self, spec: LaunchSpec, configuration: dict[str, Any]) -> None:
        if self._options.pull == "always" and not self._exists(spec.key):
            self._pull(spec)
        if not self._create(spec, configuration):
            if self._options.pull == "never":
                raise Rejected("image", f"There is no image {spec.image!r}, and 'pull' is 'never'.")
            self._pull(spec)
            if not self._create(spec, configuration):
                raise Unavailable(f"The image {spec.image!r} was removed as soon as it was pulled.")
        self._start(spec)
        self._view.note_started(spec.key)

    def _pull(self, spec: LaunchSpec) -> None:
        output = self._output(spec.key)
        self._images.pull(spec.image, spec.key, note=output.note, check=lambda: self._require_launch(spec.key))

    def _exists(self, key: str) -> bool:
        try:
            with self._daemon.asked() as api:
                api.inspect_container(key)
        except Gone:
            return False
        return True

    def _create(self, spec: LaunchSpec, configuration: dict[str, Any]) -> bool:
        """Create the container, or find it created; False where its image is missing."""
        self._require_launch(spec.key)
        with self._daemon.asked() as api:
            try:
                api.create_container_from_config(configuration, name=spec.key)
            except docker.errors.ImageNotFound:
                return False
            except APIError as error:
                if error.status_code == _CONFLICT:
                    return True
                if _is_final(error):
                    message = f"The container could not be created: {explanation(error)}"
                    raise Rejected("start", message) from error
                raise
        return True

    def _start(self, spec: LaunchSpec) -> None:
        try:
            with self._daemon.asked() as api:
                if PHASES.get(api.inspect_container(spec.key)["State"]["Status"]) is not Phase.CREATED:
                    return
                if spec.key in self._unanswered:
                    self._lose(spec)
                self._require_launch(spec.key)
                self._unanswered.add(spec.key)
                try:
                    api.start(spec.key)
                except APIError as error:
                    if _STARTED_BEFORE.search(explanation(error)):
                        self._lose(spec)
                    self._unanswered.discard(spec.key)
                    if _is_final(error):
                        self._reject(spec, explanation(error))
                    raise
                self._unanswered.discard(spec.key)
        except Gone as error:
            raise Unavailable(f"The container was removed before it was started: {error}") from error

    def _remove(self, handle: str) -> None:
        with suppress(Gone), self._daemon.asked() as api:
            try:
                api.remove_container(handle, v=True, force=True)
            except APIError as error:
                # Somebody else is removing it.
                if error.status_code != _CONFLICT:
                    raise
        self._view.forget(handle)

    def _lose(self, spec: LaunchSpec) -> None:
        """Give up what may have run: a daemon that dies as it starts a container calls it created ever after."""
        with suppress(ExecutorError):
            self._remove(spec.key)
        raise Rejected("lost", "The daemon broke off as it started the container: it may have run.")

    def _reject(self, spec: LaunchSpec, message: str) -> None:
        # What was noted of it, the pull of its image say, is still to be read.
        with suppress(ExecutorError):
            self._remove(spec.key)
        raise Rejected("start", f"The container could not be started: {message}")

    def _require_launch(self, key: str) -> None:
        """Go on only while the attempt is wanted, and this worker's."""
        if self._closed.is_set():
            raise Unavailable("This executor is closed.")
        if self._alive_until is not None and time.monotonic() > self._alive_until:
            raise Unavailable("This worker's lease has run out: another one may have the attempt.")
        with self._lock:
            if key in self._given_up:
                raise Rejected("start", "It was stopped before it had started.")

    def _output(self, key: str) -> Output:
        with self._lock:
            if key not in self._outputs:
                self._outputs[key] = Output(key, self._daemon, self._changed.set)
                if self._closed.is_set():
                    self._outputs[key].close()
            return self._outputs[key]

    def _stop(self, handle: str, grace_seconds: int) -> None:
        """Stop a container, however often the daemon is away meanwhile (a thread of its own)."""
        try:
            while not self._closed.is_set():
                try:
                    with self._daemon.asked() as api:
                        api.stop(handle, timeout=grace_seconds)
                except Gone:
                    return
                except Unavailable:
                    self._closed.wait(_RETRY_SECONDS)
                else:
                    return
        finally:
            with self._lock:
                self._stopping.discard(handle)

    def _is_to_be_kept(self, handle: str) -> bool:
        if not self._options.keep_failed_seconds:
            return False
        try:
            with self._daemon.asked() as api:
                state = api.inspect_container(handle)["State"]
        except Gone:
            return False
        if PHASES.get(state["Status"]) is not Phase.EXITED:
            return False
        age = datetime.now(UTC) - datetime.fromisoformat(state["FinishedAt"])
        return age.total_seconds() < self._options.keep_failed_seconds

    def _exit_status(self, found: Mapping[str, Any], out_of_memory: bool) -> ExitStatus:
        state, words = found["State"], ""
        if state["ExitCode"] in INIT_FAILURES:
            with self._daemon.asked() as api:
                words = api.logs(found["Id"], stdout=False, stderr=True, tail=1).decode(errors="replace")
        return exit_status(
            state,
            memory_bytes=found["HostConfig"]["Memory"],
            out_of_memory=out_of_memory,
            last_words=words[-_LAST_WORDS_BYTES:],
        )


def _is_final(error: APIError) -> bool:
    """Tell whether the daemon will say the same next time."""
    return error.is_client_error() or any(words in explanation(error) for words in _FINAL_FAILURES)

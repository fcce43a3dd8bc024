"""Create and start containers, each once however often it is submitted."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

import docker
from docker.errors import APIError, ImageNotFound, NotFound

from ..base import DependencyUnavailable, ExecutorError, LaunchSpec, Phase, Rejected, Unavailable, Waiting
from .daemon import Daemon
from .daemon_answers import CONFLICT, Gone, explanation
from .exits import PHASES
from .images import Images
from .refusals import is_final_launch
from .result_archives import make_files
from .view import View
from .volume_owner import give_new_volumes

# The daemon's errors for a container that it was starting when it crashed (measured with 20.10: 162 of 205 interrupted
# starts; it would have run the other 43 containers again).
_STARTED_BEFORE = re.compile("already exists|already in use|file exists")
# Errors after which nobody knows whether the runtime has started it. Before it was created there, it has not.
_UNANSWERED = re.compile(
    "deadline exceeded|context canceled|timed out|ttrpc|transport|rpc error|connection error|connection reset"
    r"|broken pipe|\bEOF\b"
)
_NOT_CREATED = "create failed"
_STOPPED = "It was stopped before it had started."
_ANOTHER_WORKERS = "The attempt is another worker's by now."


class Containers:
    """Launches attempts under their keys. Any thread may call it."""

    def __init__(self, daemon: Daemon, view: View, images: Images, *, pull: str) -> None:
        self._daemon, self._view, self._images, self._pull_policy = daemon, view, images, pull
        # Guards the sets and the locks.
        self._lock = threading.Lock()
        self._launch_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._launching: set[str] = set()
        self._cancelled: set[str] = set()
        # Those whose start was requested and not answered.
        self._unanswered: set[str] = set()
        self._closed = False
        self._alive_until: float | None = None

    def launch(
        self,
        spec: LaunchSpec,
        configuration: Mapping[str, Any],
        *,
        note: Callable[[str], None],
        owners: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Create and start a container, or adopt it where it exists; ``note`` takes the steps of a pull.

        ``owners``: paths of volumes, and whose they become (``uid:gid``). Raises Rejected, Unavailable where it may
        work later, or Waiting while its image is being pulled.
        """
        with self._lock:
            self._launching.add(spec.key)
            lock = self._launch_locks[spec.key]
        try:
            # Starting an exited container would run it again, so only one thread at a time may look and start.
            with lock:
                if self._view.phase(spec.key) in (None, Phase.CREATED):
                    self._launch(spec, configuration, note, owners)
        except DependencyUnavailable:
            raise
        except Unavailable as error:
            # A request that breaks off, or is answered with an error, says nothing of other jobs' while these are
            # answered: only a daemon that answers nothing is away.
            if error.__cause__ is not None and self._daemon.answers():
                raise DependencyUnavailable(f"{error} It answers other requests.") from error
            raise
        finally:
            with self._lock:
                self._launching.discard(spec.key)
                self._cancelled.discard(spec.key)

    def cancel(self, key: str) -> None:
        """Reject a launch in progress, or one that waits for its image, if there is one."""
        with self._lock:
            if key in self._launching:
                self._cancelled.add(key)
        self._images.forget(key, why=Rejected("start", _STOPPED))

    def forget(self, key: str) -> None:
        """Drop what is remembered of an attempt that has ended or is another worker's."""
        with self._lock:
            self._launch_locks.pop(key, None)
            self._unanswered.discard(key)
        self._images.forget(key, why=DependencyUnavailable(_ANOTHER_WORKERS))

    def heartbeat(self, seconds: float) -> None:
        """Start nothing later than this many seconds from now, unless there is another heartbeat."""
        self._alive_until = time.monotonic() + seconds

    def close(self) -> None:
        """Start nothing any more, and interrupt pulls."""
        self._closed = True
        self._images.close()

    def _launch(
        self,
        spec: LaunchSpec,
        configuration: Mapping[str, Any],
        note: Callable[[str], None],
        owners: Mapping[str, str],
    ) -> None:
        image, platform = spec.job.image, spec.container.platform
        pulled = self._images.was_pulled(spec.key)
        if self._pull_policy == "always" and not pulled and not self._exists(spec.key):
            self._pull(spec, note)
        created = self._create(spec, configuration, note)
        if created is None:
            if self._pull_policy == "never":
                raise Rejected("image", f"There is no image {image!r}, and 'pull' is 'never'.")
            if pulled:
                text = f"The image {image!r} was removed as soon as it was pulled."
                error: ExecutorError = DependencyUnavailable(text)
                if platform:
                    text = f"The image {image!r} that was pulled is not for the platform {platform!r}."
                    error = Rejected("image", text)
                self._images.forget(spec.key, why=error)
                raise error
            self._pull(spec, note)
        prepare = partial(self._prepare, spec.key, configuration, owners)
        self._start(spec, is_new=bool(created), prepare=prepare)
        self._view.note_started(spec.key)

    def _prepare(self, key: str, configuration: Mapping[str, Any], owners: Mapping[str, str]) -> None:
        """Do what must be done between the creation of a container and its start."""
        give_new_volumes(self._daemon, key, configuration, owners)
        make_files(self._daemon, key, configuration)

    def _pull(self, spec: LaunchSpec, note: Callable[[str], None]) -> NoReturn:
        """Have the image pulled; the attempt is to be submitted again when it is there."""
        until = self._images.pull(spec.job.image, spec.key, note=note, platform=spec.container.platform)
        try:
            # Whoever has stopped it before may not have seen that it waits.
            self._require_launch(spec)
        except ExecutorError as error:
            self._images.forget(spec.key, why=error)
            raise
        raise Waiting(f"the image {spec.job.image!r}", until)

    def _exists(self, key: str) -> bool:
        try:
            with self._daemon.client() as api:
                api.inspect_container(key)
        except Gone:
            return False
        return True

    def _create(self, spec: LaunchSpec, configuration: Mapping[str, Any], note: Callable[[str], None]) -> bool | None:
        """Create the container; return False where it exists already, None where its image is missing."""
        self._require_launch(spec)
        with self._daemon.client() as api:
            try:
                created = api.create_container_from_config(
                    configuration, name=spec.key, platform=spec.container.platform or None
                )
            except NotFound as error:
                if isinstance(error, ImageNotFound) or not self._has_image(spec.job.image):
                    return None
                raise _failure("created", error) from error
            except APIError as error:
                # Podman answers 500 to a name that is taken.
                if error.status_code == CONFLICT or (error.is_server_error() and self._exists(spec.key)):
                    return False
                raise _failure("created", error) from error
        for warning in created.get("Warnings") or ():
            note(f"The daemon warns: {warning}")
        return True

    def _has_image(self, image: str) -> bool:
        try:
            with self._daemon.client() as api:
                api.inspect_image(image)
        except Gone:
            return False
        return True

    def _start(self, spec: LaunchSpec, *, is_new: bool, prepare: Callable[[], None]) -> None:
        try:
            with self._daemon.client() as api:
                # One that was just created cannot have been started: that saves two calls for nearly every launch.
                if not is_new:
                    found = api.inspect_container(spec.key)
                    phase = PHASES.get(found["State"]["Status"])
                    if phase is None:
                        # It is being removed. If it has certainly not run, it is created again when it is gone.
                        if not self._daemon.remembers_creation(found):
                            self._fail_unconfirmed_start(spec)
                        raise DependencyUnavailable(f"A container of this name is {found['State']['Status']}.")
                    if phase is not Phase.CREATED:
                        return
                    if not self._daemon.remembers_creation(found):
                        self._fail_unconfirmed_start(spec)
                if spec.key in self._unanswered:
                    self._fail_unconfirmed_start(spec)
                prepare()
                self._require_launch(spec)
                self._start_once(api, spec)
        except Gone as error:
            # It is created again.
            raise DependencyUnavailable(f"The container could not be started: {error}") from error

    def _start_once(self, api: docker.APIClient, spec: LaunchSpec) -> None:
        self._unanswered.add(spec.key)
        try:
            api.start(spec.key)
        except APIError as error:
            text = explanation(error)
            if _STARTED_BEFORE.search(text):
                self._fail_unconfirmed_start(spec)
            if _UNANSWERED.search(text) and _NOT_CREATED not in text:
                self._require_launch(spec)
                raise Rejected("lost", f"The container may have been started: {text}") from error
            self._unanswered.discard(spec.key)
            failure = _failure("started", error)
            # What is left of it would not be started later: it may be marked for removal, or lack what was to be made.
            self._remove_unstarted(spec)
            raise failure from error
        self._unanswered.discard(spec.key)

    def _fail_unconfirmed_start(self, spec: LaunchSpec) -> NoReturn:
        """Fail the attempt as lost.

        A daemon that crashes during `start` reports `created` forever, even if the container ran. The container stays
        until the attempt's end is stored: a worker that rescues the attempt before would run it again.
        """
        self._require_launch(spec)
        raise Rejected("lost", "The daemon may have crashed while it started the container, which may have run.")

    def _remove_unstarted(self, spec: LaunchSpec) -> None:
        """Remove the container of a launch that has failed. Its notes, such as of a pull, can still be read."""
        self._require_launch(spec)
        with suppress(ExecutorError):
            self._daemon.remove(spec.key)
            self._view.forget(spec.key)

    def _require_launch(self, spec: LaunchSpec) -> None:
        """Raise unless the attempt is wanted, and still this worker's."""
        if self._closed:
            raise Unavailable("This executor is closed.")
        if self._alive_until is not None and time.monotonic() > self._alive_until:
            raise Unavailable("This worker's lease has run out: another one may have the attempt.")
        # After the lease: a worker that has got another lease has abandoned its former attempts before.
        if not spec.is_wanted():
            raise Unavailable(_ANOTHER_WORKERS)
        with self._lock:
            if spec.key in self._cancelled:
                raise Rejected("start", _STOPPED)


def _failure(done: str, error: APIError) -> ExecutorError:
    """Return what a launch raises that the daemon has answered with an error; ``done``: created or started."""
    text = explanation(error)
    message = f"The container could not be {done}: {text}"
    if is_final_launch(text, status=error.status_code or 0):
        return Rejected("start", message)
    return DependencyUnavailable(message)

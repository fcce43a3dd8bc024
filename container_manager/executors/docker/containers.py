"""Create and start containers, each once however often it is submitted."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import docker
from docker.errors import APIError

from ..base import DependencyUnavailable, ExecutorError, LaunchSpec, Phase, Rejected, Unavailable
from .daemon import CONFLICT, Daemon, Gone, explanation
from .exits import PHASES
from .images import Images
from .view import View

# Errors that will not go away by a retry, though the daemon answers 500 as for those that may (measured with 20.10).
_FINAL_FAILURES = (
    "OCI runtime",
    "unable to find user",
    "unable to find group",
    "uids and gids must be in range",
    "could not select device driver",
    "cannot unmarshal",
    # About the working directory.
    "Cannot mkdir",
    "not a directory",
    "file name too long",
    "invalid argument",
    "too many levels of symbolic links",
)
# The daemon's errors for a container that it was starting when it crashed (measured with 20.10: 162 of 205 interrupted
# starts; it would have run the other 43 containers again).
_STARTED_BEFORE = re.compile("already exists|already in use|file exists")


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

    def launch(self, spec: LaunchSpec, configuration: Mapping[str, Any], *, note: Callable[[str], None]) -> None:
        """Create and start a container, or adopt it where it exists; ``note`` takes the steps of a pull.

        Raises Rejected, or Unavailable where it may work later.
        """
        with self._lock:
            self._launching.add(spec.key)
            lock = self._launch_locks[spec.key]
        try:
            # Starting an exited container would run it again, so only one thread at a time may look and start.
            with lock:
                if self._view.phase(spec.key) in (None, Phase.CREATED):
                    self._launch(spec, configuration, note)
        finally:
            with self._lock:
                self._launching.discard(spec.key)
                self._cancelled.discard(spec.key)

    def cancel(self, key: str) -> None:
        """Reject a launch in progress, if there is one."""
        with self._lock:
            if key not in self._launching:
                return
            self._cancelled.add(key)
        self._images.interrupt(key)

    def forget(self, key: str) -> None:
        """Drop what is remembered of an attempt that has ended or is another worker's."""
        with self._lock:
            self._launch_locks.pop(key, None)
            self._unanswered.discard(key)

    def heartbeat(self, seconds: float) -> None:
        """Start nothing later than this many seconds from now, unless there is another heartbeat."""
        self._alive_until = time.monotonic() + seconds

    def close(self) -> None:
        """Start nothing any more, and interrupt pulls."""
        self._closed = True
        self._images.interrupt()

    def _launch(self, spec: LaunchSpec, configuration: Mapping[str, Any], note: Callable[[str], None]) -> None:
        if self._pull_policy == "always" and not self._exists(spec.key):
            self._pull(spec, note)
        created = self._create(spec, configuration)
        if created is None:
            if self._pull_policy == "never":
                raise Rejected("image", f"There is no image {spec.job.image!r}, and 'pull' is 'never'.")
            self._pull(spec, note)
            created = self._create(spec, configuration)
            if created is None:
                raise DependencyUnavailable(f"The image {spec.job.image!r} was removed as soon as it was pulled.")
        self._start(spec, is_new=created)
        self._view.note_started(spec.key)

    def _pull(self, spec: LaunchSpec, note: Callable[[str], None]) -> None:
        self._images.pull(spec.job.image, spec.key, note=note, check=lambda: self._require_launch(spec))

    def _exists(self, key: str) -> bool:
        try:
            with self._daemon.client() as api:
                api.inspect_container(key)
        except Gone:
            return False
        return True

    def _create(self, spec: LaunchSpec, configuration: Mapping[str, Any]) -> bool | None:
        """Create the container; return False where it exists already, None where its image is missing."""
        self._require_launch(spec)
        with self._daemon.client() as api:
            try:
                api.create_container_from_config(configuration, name=spec.key)
            except docker.errors.ImageNotFound:
                return None
            except APIError as error:
                # Podman answers 500 to a name that is taken.
                if error.status_code == CONFLICT or (error.is_server_error() and self._exists(spec.key)):
                    return False
                if _is_final(error):
                    message = f"The container could not be created: {explanation(error)}"
                    raise Rejected("start", message) from error
                raise
        return True

    def _start(self, spec: LaunchSpec, *, is_new: bool) -> None:
        try:
            with self._daemon.client() as api:
                # One that was just created cannot have been started: that saves two calls for nearly every launch.
                if not is_new:
                    found = api.inspect_container(spec.key)
                    if PHASES.get(found["State"]["Status"]) is not Phase.CREATED:
                        return
                    if not self._daemon.remembers_creation(found):
                        self._fail_unconfirmed_start(spec)
                if spec.key in self._unanswered:
                    self._fail_unconfirmed_start(spec)
                self._require_launch(spec)
                self._start_once(api, spec)
        except Gone as error:
            raise Unavailable(f"The container was removed before it was started: {error}") from error

    def _start_once(self, api: docker.APIClient, spec: LaunchSpec) -> None:
        self._unanswered.add(spec.key)
        try:
            api.start(spec.key)
        except APIError as error:
            if _STARTED_BEFORE.search(explanation(error)):
                self._fail_unconfirmed_start(spec)
            self._unanswered.discard(spec.key)
            if _is_final(error):
                self._fail_rejected_start(spec, explanation(error))
            raise
        self._unanswered.discard(spec.key)

    def _fail_unconfirmed_start(self, spec: LaunchSpec) -> NoReturn:
        """Fail the attempt as lost.

        A daemon that crashes during `start` reports `created` forever, even if the container ran.
        """
        self._remove_unstarted(spec)
        raise Rejected("lost", "The daemon may have crashed while it started the container, which may have run.")

    def _fail_rejected_start(self, spec: LaunchSpec, message: str) -> NoReturn:
        self._remove_unstarted(spec)
        raise Rejected("start", f"The container could not be started: {message}")

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
            raise Unavailable("The attempt is another worker's by now.")
        with self._lock:
            if spec.key in self._cancelled:
                raise Rejected("start", "It was stopped before it had started.")


def _is_final(error: APIError) -> bool:
    """Return whether a retry would fail in the same way."""
    return error.is_client_error() or any(words in explanation(error) for words in _FINAL_FAILURES)

"""Create Jobs, each once however often it is submitted."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from ..base import DependencyUnavailable, LaunchSpec, Rejected, Unavailable, Waiting
from .api_fields import is_bound, uid_of
from .cluster_answers import Absent, ApiRefusal, NameTaken, Overloaded
from .cluster_api import ClusterApi
from .cluster_attempt import ClusterAttempt
from .cluster_view import ClusterView
from .job_manifests import job_manifest
from .kubernetes_options import KubernetesOptions
from .labels import is_of, key_of, object_name
from .launch_waits import admission
from .secret_manifests import check_secrets, secret_manifest
from .waiting_launches import GONE, WaitingLaunches, attempt_wait

# The pauses before a create that was put off is tried again: from the first to the longest.
_PUT_OFF_SECONDS, _LONGEST_PUT_OFF_SECONDS = 2.0, 60.0
_ANOTHER_WORKERS = "The attempt is another worker's by now."
_CLOSED = "This executor is closed."
_FORBIDDEN, _NOT_FOUND, _BAD_REQUEST, _UNPROCESSABLE = 403, 404, 400, 422
# Refusals whose cause somebody can remove: meanwhile the jobs wait, and say for what.
_MENDABLE = ("exceeded quota", "cannot create resource", "is being terminated", "not found", "failed calling webhook")


class Unconfirmed(DependencyUnavailable):
    """Nobody knows whether the cluster has created the Job."""

    reason = "lost"


class JobLaunches:
    """Launches attempts under their keys. Any thread may call it."""

    def __init__(
        self,
        api: ClusterApi,
        view: ClusterView,
        waiting: WaitingLaunches,
        options: KubernetesOptions,
        *,
        install: str,
    ) -> None:
        self._api, self._view, self._waiting, self._options, self._install = api, view, waiting, options, install
        self._lock = threading.Lock()
        self._launch_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        # Those of which a create was not answered, those whose Secret is there, and how often creates were put off.
        self._unanswered: set[str] = set()
        self._with_secret: set[str] = set()
        self._put_off: dict[str, float] = {}
        self._closed = False
        self._alive_until: float | None = None

    def launch(self, spec: LaunchSpec, *, note: Callable[[str], None]) -> None:
        """Create an attempt's Job, or adopt it; return once its program has started, or has ended.

        ``note`` takes what it waits for. Raises Waiting until then, Rejected, or Unavailable where it may work later.
        """
        self._waiting.begin(spec.key)
        try:
            with self._lock:
                lock = self._launch_locks[spec.key]
            with lock:
                self._launch(spec, note)
        except (ApiRefusal, Absent, NameTaken) as error:
            # None of these is an answer to the question whether the attempt may run.
            raise Unconfirmed(f"The API server's answer was not expected: {error}") from error
        finally:
            self._waiting.leave(spec.key)

    def forget(self, key: str) -> None:
        """Drop what is remembered of an attempt that has ended or is another worker's."""
        with self._lock:
            self._launch_locks.pop(key, None)
            self._unanswered.discard(key)
            self._with_secret.discard(key)
            self._put_off.pop(key, None)
        self._waiting.forget(key)
        self._waiting.end(key, DependencyUnavailable(_ANOTHER_WORKERS))

    def heartbeat(self, seconds: float) -> None:
        """Create nothing later than this many seconds from now, unless there is another heartbeat."""
        self._alive_until = time.monotonic() + seconds

    def close(self) -> None:
        """Create nothing any more, and end all waits."""
        self._closed = True
        for key in self._waiting.waiting():
            self._waiting.end(key, Unavailable(_CLOSED))

    def _launch(self, spec: LaunchSpec, note: Callable[[str], None]) -> None:
        attempt = self._view.attempt(spec.key)
        if self._waiting.is_taken_away(spec.key, attempt):
            raise Rejected("lost", GONE)
        if attempt is not None and (attempt.has_started or attempt.exit is not None):
            return
        wait = self._waiting.get(spec.key)
        if wait is not None and not wait.until.done():
            raise Waiting(wait.what, wait.until)
        self._require_launch(spec)
        if others := self._view.siblings(spec.key):
            self._waiting.wait(spec.key, f"the former attempt to end: {others[0].key}", note, again=1.0)
        if attempt is not None and attempt.job is None and not attempt.is_stopped:
            if attempt.job_seen_at:
                # Its Job was deleted, and has left a pod behind.
                self._await_deletion(spec, attempt, note)
            attempt = self._found(spec, attempt, note)
        if attempt is None or attempt.job is None:
            attempt = self._create(spec, note)
        else:
            self._waiting.note_created(spec.key, uid_of(attempt.job))
        if attempt.is_deleting:
            self._await_deletion(spec, attempt, note)
        self._give_secret(spec, attempt, note)
        waits_for = attempt_wait(attempt, () if wait is None else wait.events)
        self._waiting.wait(spec.key, waits_for.what, note)

    def _create(self, spec: LaunchSpec, note: Callable[[str], None]) -> ClusterAttempt:
        """Create the Job, or find the one that is there."""
        manifest = job_manifest(spec, self._options, install=self._install)
        check_secrets(spec)
        self._require_launch(spec)
        name, is_unanswered = object_name(spec.key), spec.key in self._unanswered
        if is_unanswered:
            # Not blindly again: the create whose answer was lost may have succeeded.
            with suppress(Absent):
                return self._adopted(spec, self._there(spec, name, note))
        try:
            job = self._api.create_job(manifest)
        except NameTaken:
            try:
                job = self._there(spec, name, note)
            except Absent as error:
                # It was just deleted.
                raise DependencyUnavailable(f"The Job {name} was deleted at this moment.") from error
            return self._adopted(spec, job)
        except Overloaded as error:
            if not error.is_undone:
                self._unanswered.add(spec.key)
            self._put_off_create(spec, note, str(error), error.retry_after)
        except Unavailable:
            self._unanswered.add(spec.key)
            raise
        except (ApiRefusal, Absent) as error:
            self._end_refused(spec, note, error, is_unanswered=is_unanswered)
        return self._adopted(spec, job)

    def _found(self, spec: LaunchSpec, attempt: ClusterAttempt, note: Callable[[str], None]) -> ClusterAttempt:
        """Find the Job of a pod that was seen before it: the two are listed apart."""
        try:
            return self._adopted(spec, self._there(spec, object_name(spec.key), note))
        except Absent:
            self._await_deletion(spec, attempt, note)

    def _there(self, spec: LaunchSpec, name: str, note: Callable[[str], None]) -> dict[str, Any]:
        """Return the Job of this name. Raises `Absent` where there is none."""
        try:
            return self._api.job(name)
        except ApiRefusal as error:
            # A server that has just started does not yet know who may do what, and has not said whether it is there.
            self._put_off_create(spec, note, str(error), None)

    def _adopted(self, spec: LaunchSpec, job: Mapping[str, Any]) -> ClusterAttempt:
        """Take a Job for the attempt's, if it is."""
        metadata = job["metadata"]
        if not is_of(metadata, self._install) or key_of(metadata) != spec.key:
            raise Rejected("start", f"Another Job has the name {metadata['name']}: it is not this installation's.")
        self._unanswered.discard(spec.key)
        self._put_off.pop(spec.key, None)
        self._waiting.note_created(spec.key, uid_of(job))
        self._view.note_job(spec.key, job)
        attempt = self._view.attempt(spec.key)
        return attempt if attempt is not None else ClusterAttempt(key=spec.key, job=job)

    def _end_refused(
        self, spec: LaunchSpec, note: Callable[[str], None], error: ApiRefusal | Absent, *, is_unanswered: bool
    ) -> NoReturn:
        """Wait, or reject the attempt, where the API server refuses its Job."""
        status = error.status if isinstance(error, ApiRefusal) else _NOT_FOUND
        said = error.message if isinstance(error, ApiRefusal) else str(error)
        is_mendable = status in (_FORBIDDEN, _NOT_FOUND) and any(words in said for words in _MENDABLE)
        if is_mendable or (status == _FORBIDDEN and admission(said)[1] != "start" and "admission" not in said):
            self._put_off_create(spec, note, said, None)
        if status not in (_FORBIDDEN, _BAD_REQUEST, _UNPROCESSABLE):
            kind = Unconfirmed if is_unanswered else DependencyUnavailable
            raise kind(f"The Job could not be created: {error}") from error
        # A create of this attempt that was not answered may have succeeded, or still succeed.
        reason = "lost" if is_unanswered else "start"
        raise Rejected(reason, f"The cluster refuses the Job: {said}") from error

    def _put_off_create(
        self, spec: LaunchSpec, note: Callable[[str], None], why: str, seconds: float | None
    ) -> NoReturn:
        pause = self._put_off.get(spec.key, _PUT_OFF_SECONDS)
        self._put_off[spec.key] = min(2 * pause, _LONGEST_PUT_OFF_SECONDS)
        self._waiting.wait(spec.key, f"the cluster to take its Job: {why}", note, again=max(pause, seconds or 0.0))

    def _await_deletion(self, spec: LaunchSpec, attempt: ClusterAttempt, note: Callable[[str], None]) -> NoReturn:
        """Wait until a Job that is being deleted is gone: it will run nothing any more, and is created again."""
        if attempt.recorded or any(is_bound(record.pod) for record in attempt.pods.values()):
            raise Rejected("lost", "Its Job is being deleted, and its program may have run.")
        self._waiting.wait(spec.key, "its former Job to be deleted", note)

    def _give_secret(self, spec: LaunchSpec, attempt: ClusterAttempt, note: Callable[[str], None]) -> None:
        """Create the Secret that the pod waits for, owned by its Job."""
        if spec.key in self._with_secret or attempt.job is None:
            return
        manifest = secret_manifest(spec, install=self._install, owner=attempt.job["metadata"])
        try:
            if manifest is not None:
                self._api.create_secret(manifest)
        except NameTaken:
            # Its name is the attempt's, and so is what it has.
            pass
        except Overloaded as error:
            self._put_off_create(spec, note, str(error), error.retry_after)
        except (ApiRefusal, Absent) as error:
            self._put_off_create(spec, note, f"its Secret cannot be created: {error}", None)
        self._with_secret.add(spec.key)

    def _require_launch(self, spec: LaunchSpec) -> None:
        """Raise unless the attempt is wanted, and still this worker's."""
        if self._closed:
            raise Unavailable(_CLOSED)
        if self._alive_until is not None and time.monotonic() > self._alive_until:
            raise Unavailable("This worker's lease has run out: another one may have the attempt.")
        # After the lease: a worker that has got another lease has abandoned its former attempts before.
        if not spec.is_wanted():
            raise Unavailable(_ANOTHER_WORKERS)

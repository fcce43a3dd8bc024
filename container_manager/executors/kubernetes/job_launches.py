"""Create Jobs, each once however often it is submitted, and wait without a thread until their programs start."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from ..base import DependencyUnavailable, ExecutorError, LaunchSpec, Rejected, Unavailable, Waiting
from .api_fields import event_time, has_started, is_bound, main_status, uid_of
from .cluster_acts import ClusterActs
from .cluster_answers import Absent, ApiRefusal, NameTaken, Overloaded
from .cluster_api import ClusterApi
from .cluster_attempt import ClusterAttempt
from .cluster_view import ClusterView
from .job_manifests import job_manifest
from .kubernetes_options import KubernetesOptions
from .labels import FINALIZER, is_of, key_of, object_name
from .launch_waits import LaunchWait, admission, launch_wait
from .secret_manifests import check_secrets, secret_manifest

# How long an object that a pod needs may be missing: it may be created right now, or be on its way to the node.
_CONFIG_SECONDS = 30.0
# What is waited for in other words is passed on at most this often.
_TELL_SECONDS = 5.0
# After this much waiting the cluster is asked for events that say why; then again after pauses that double.
_EVENTS_SECONDS, _LONGEST_EVENTS_SECONDS = 1.0, 30.0
# The pauses before a create that was put off is tried again: from the first to the longest.
_PUT_OFF_SECONDS, _LONGEST_PUT_OFF_SECONDS = 2.0, 60.0
_STOPPED = "It was stopped before it had started."
_ANOTHER_WORKERS = "The attempt is another worker's by now."
_CLOSED = "This executor is closed."
_GONE = "Its Job is gone, and this worker has not let it go. Its program may have run."
_UNSEEN = "Its Job was deleted while its pods could not be seen. Its program may have run."
_FORBIDDEN, _NOT_FOUND, _BAD_REQUEST, _UNPROCESSABLE = 403, 404, 400, 422
# Refusals that somebody can mend: meanwhile the jobs wait, and say for what.
_MENDABLE = ("exceeded quota", "cannot create resource", "is being terminated", "not found", "failed calling webhook")


class Unconfirmed(DependencyUnavailable):
    """Nobody knows whether the cluster has created the Job."""

    reason = "lost"


@dataclass(slots=True, kw_only=True, eq=False)
class _Wait:
    """A launch that waits. Guarded by the lock of `JobLaunches`.

    ``until``: ended when the attempt is to be submitted again. ``clocks``: by what it waits for, since when, in seconds
    of a cluster that answers. ``failing``: how it ends once it is certain that its program will not start.
    ``again_at``: monotonic seconds when it is to be submitted again in any case.
    """

    what: str
    note: Callable[[str], None]
    until: Future[None] = field(default_factory=Future)
    told_at: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)
    clocks: dict[str, float] = field(default_factory=dict)
    failing: Rejected | None = None
    again_at: float | None = None
    events: Sequence[Mapping[str, Any]] = ()
    events_at: float = 0.0
    events_pause: float = _EVENTS_SECONDS


class JobLaunches:
    """Launches attempts under their keys. Any thread may call it."""

    def __init__(
        self, api: ClusterApi, view: ClusterView, acts: ClusterActs, options: KubernetesOptions, *, install: str
    ) -> None:
        self._api, self._view, self._acts, self._options, self._install = api, view, acts, options, install
        self._lock = threading.Lock()
        self._launch_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._waits: dict[str, _Wait] = {}
        # Those of which a create was not answered, those whose Secret is there, and how often creates were put off.
        self._unanswered: set[str] = set()
        self._with_secret: set[str] = set()
        # The uids of the Jobs that are known to have been created, and of those that this worker itself has let go.
        self._created: dict[str, str] = {}
        self._let_go_of: dict[str, str] = {}
        self._put_off: dict[str, float] = {}
        self._launching: set[str] = set()
        self._cancelled: set[str] = set()
        self._closed = False
        self._alive_until: float | None = None

    def launch(self, spec: LaunchSpec, *, note: Callable[[str], None]) -> None:
        """Create an attempt's Job, or adopt it; return once its program has started, or has ended.

        ``note`` takes what it waits for. Raises Waiting until then, Rejected, or Unavailable where it may work later.
        """
        with self._lock:
            self._launching.add(spec.key)
            lock = self._launch_locks[spec.key]
        try:
            with lock:
                self._launch(spec, note)
        except (ApiRefusal, Absent, NameTaken) as error:
            # None of these is an answer to the question whether the attempt may run.
            raise Unconfirmed(f"The API server's answer was not expected: {error}") from error
        finally:
            with self._lock:
                self._launching.discard(spec.key)
                self._cancelled.discard(spec.key)

    def tend(self, key: str) -> None:
        """Look whether a launch need not wait any more, or waits for something else."""
        with self._lock:
            wait = self._waits.get(key)
        if wait is None or wait.until.done():
            return
        now = time.monotonic()
        if wait.failing is None and wait.again_at is not None:
            if now >= wait.again_at:
                self._end(key, None)
            return
        attempt = self._view.attempt(key)
        if self._is_taken_away(key, attempt):
            self._end(key, Rejected("lost", _GONE))
        elif attempt is None:
            # Its Job was let go, and is gone.
            self._end(key, wait.failing)
        elif wait.failing is not None and not attempt.has_run:
            # Whatever the node makes of the pod that is deleted.
            self._end_failing(key, wait, attempt)
        elif attempt.has_started or attempt.exit is not None:
            self._end(key, None)
        elif attempt.is_deleting:
            self._let_go(key, attempt)
        else:
            self._look(key, wait, attempt, now)

    def waiting(self) -> list[str]:
        """Return the keys of launches that wait."""
        with self._lock:
            return [key for key, wait in self._waits.items() if not wait.until.done()]

    def cancel(self, key: str) -> bool:
        """End a launch in progress, or one that waits; return whether there is one."""
        with self._lock:
            if (wait := self._waits.get(key)) is None or wait.until.done():
                if key not in self._launching:
                    return False
                self._cancelled.add(key)
                return True
            wait.failing = wait.failing or Rejected("start", _STOPPED)
        self.tend(key)
        return True

    def forget(self, key: str) -> None:
        """Drop what is remembered of an attempt that has ended or is another worker's."""
        with self._lock:
            self._launch_locks.pop(key, None)
            self._unanswered.discard(key)
            self._with_secret.discard(key)
            self._created.pop(key, None)
            self._let_go_of.pop(key, None)
            self._put_off.pop(key, None)
        self._end(key, DependencyUnavailable(_ANOTHER_WORKERS))

    def heartbeat(self, seconds: float) -> None:
        """Create nothing later than this many seconds from now, unless there is another heartbeat."""
        self._alive_until = time.monotonic() + seconds

    def close(self) -> None:
        """Create nothing any more, and end all waits."""
        self._closed = True
        for key in self.waiting():
            self._end(key, Unavailable(_CLOSED))

    def _launch(self, spec: LaunchSpec, note: Callable[[str], None]) -> None:
        attempt = self._view.attempt(spec.key)
        if self._is_taken_away(spec.key, attempt):
            raise Rejected("lost", _GONE)
        if attempt is not None and (attempt.has_started or attempt.exit is not None):
            return
        with self._lock:
            wait = self._waits.get(spec.key)
        if wait is not None and not wait.until.done():
            raise Waiting(wait.what, wait.until)
        self._require_launch(spec)
        if others := self._view.siblings(spec.key):
            self._wait(spec.key, f"the former attempt to end: {others[0].key}", note, again=1.0)
        if attempt is not None and attempt.job is None and not attempt.is_stopped:
            if attempt.job_seen_at:
                # Its Job was deleted, and has left a pod behind.
                self._await_deletion(spec, attempt, note)
            attempt = self._found(spec, attempt, note)
        if attempt is None or attempt.job is None:
            attempt = self._create(spec, note)
        else:
            self._created[spec.key] = uid_of(attempt.job)
        if attempt.is_deleting:
            self._await_deletion(spec, attempt, note)
        self._give_secret(spec, attempt, note)
        waits_for = _waits_for(attempt, () if wait is None else wait.events)
        self._wait(spec.key, waits_for.what, note)

    # -- create --------------------------------------------------------------------------------------------------

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
        self._created[spec.key] = uid_of(job)
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
        self._wait(spec.key, f"the cluster to take its Job: {why}", note, again=max(pause, seconds or 0.0))

    def _await_deletion(self, spec: LaunchSpec, attempt: ClusterAttempt, note: Callable[[str], None]) -> NoReturn:
        """Wait until a Job that is being deleted is gone: it will run nothing any more, and is created again."""
        if attempt.recorded or any(is_bound(record.pod) for record in attempt.pods.values()):
            raise Rejected("lost", "Its Job is being deleted, and its program may have run.")
        self._wait(spec.key, "its former Job to be deleted", note)

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

    # -- wait ----------------------------------------------------------------------------------------------------

    def _wait(self, key: str, what: str, note: Callable[[str], None], *, again: float | None = None) -> NoReturn:
        """Raise Waiting; ``again``: submit it again after so many seconds, whatever happens."""
        with self._lock:
            former = self._waits.get(key)
            wait = self._waits[key] = _Wait(what=what, note=note)
            if former is not None:
                # It goes on waiting, and says it in other words.
                wait.clocks, wait.failing, wait.began_at = former.clocks, former.failing, former.began_at
                wait.events, wait.events_at = former.events, former.events_at
                wait.events_pause = former.events_pause
            if key in self._cancelled:
                wait.failing = wait.failing or Rejected("start", _STOPPED)
            if again is not None:
                wait.again_at = time.monotonic() + again
        if former is None or former.what != what:
            note(f"Waits for {what}")
        # What it waits for may be there by now.
        self.tend(key)
        raise Waiting(what, wait.until)

    def _end(self, key: str, error: ExecutorError | None) -> None:
        """End a wait: the attempt is submitted again, or its launch has failed."""
        with self._lock:
            wait = self._waits.get(key)
            if error is not None:
                self._waits.pop(key, None)
        if wait is not None:
            with suppress(InvalidStateError):
                if error is None:
                    wait.until.set_result(None)
                else:
                    wait.until.set_exception(error)

    def _look(self, key: str, wait: _Wait, attempt: ClusterAttempt, now: float) -> None:
        """Let the clock of what a launch waits for run, and fail it where that is over."""
        self._ask_for_events(key, wait, attempt, now)
        waits_for, answered = _waits_for(attempt, wait.events), self._view.answered_seconds
        # A clock begins anew only when what it counts is over: problems with an image come and go between two pulls.
        if waits_for.kind != "held":
            wait.clocks = {waits_for.kind: wait.clocks.get(waits_for.kind, answered)}
        elif attempt.pod is None or wait.clocks.keys() == {"schedule"}:
            wait.clocks = {}
        seconds = answered - wait.clocks.get(waits_for.kind, answered)
        if (failing := self._failure(waits_for, seconds)) is not None:
            wait.failing = failing
            self._tell_events(wait)
            self._end_failing(key, wait, attempt)
        elif waits_for.what != wait.what and now - wait.told_at >= _TELL_SECONDS:
            # Submitted again, it says so.
            self._end(key, None)

    def _failure(self, waits_for: LaunchWait, seconds: float) -> Rejected | None:
        """Return how a launch fails that has waited this long for what it waits for now; None: it goes on."""
        what, options = waits_for.what, self._options
        is_believed = not waits_for.is_doubtful or seconds >= min(_CONFIG_SECONDS, options.image_seconds)
        if waits_for.final and is_believed:
            return Rejected(waits_for.final, f"The cluster will not start it: {what}")
        if waits_for.kind in ("image", "node") and seconds >= options.image_seconds:
            return Rejected("unavailable", f"Waited {options.image_seconds:g} s in vain for {what}")
        if waits_for.kind == "config" and seconds >= _CONFIG_SECONDS:
            return Rejected("start", f"Waited {_CONFIG_SECONDS:g} s in vain for {what}")
        limit = options.unschedulable_seconds
        if waits_for.kind == "schedule" and limit is not None and seconds >= limit:
            return Rejected(
                "unschedulable",
                f"Waited {limit:g} s in vain for {what} Ask for less, or give the cluster more nodes.",
            )
        return None

    def _ask_for_events(self, key: str, wait: _Wait, attempt: ClusterAttempt, now: float) -> None:
        """Ask why there is no pod yet, or why its container is not started, where its status says nothing."""
        if now - max(wait.began_at, wait.events_at) < wait.events_pause or attempt.job is None:
            return
        pod = attempt.pod
        if pod is None:
            if attempt.job["spec"].get("suspend"):
                return
            uid = uid_of(attempt.job)
        elif is_bound(pod.pod) and _is_creating(pod.pod):
            uid = uid_of(pod.pod)
        else:
            return
        wait.events_at, wait.events_pause = now, min(2 * wait.events_pause, _LONGEST_EVENTS_SECONDS)
        self._acts.begin(key, "look at events", partial(self._take_events, key, uid))

    def _take_events(self, key: str, uid: str) -> None:
        found = self._api.warnings(uid)
        with self._lock:
            if (wait := self._waits.get(key)) is not None:
                wait.events = found
        self.tend(key)

    def _tell_events(self, wait: _Wait) -> None:
        """Put the evidence into the attempt's log, before anything is deleted."""
        for event in sorted(wait.events, key=event_time)[-10:]:
            wait.note(f"The cluster says: {event.get('reason', '')}: {event.get('message', '')}")

    def _end_failing(self, key: str, wait: _Wait, attempt: ClusterAttempt) -> None:
        """Delete what was created of a launch that fails, and end its wait once that is confirmed."""
        if attempt.is_deleting and _is_confirmed(attempt):
            self._end(key, Rejected("lost", _UNSEEN) if self._view.may_have_missed(attempt) else wait.failing)
        elif attempt.job is not None and not attempt.is_deleting:
            metadata = attempt.job["metadata"]
            work = partial(self._delete, key, metadata["name"], metadata["uid"])
            self._acts.begin(key, "delete what did not start", work)

    def _delete(self, key: str, name: str, uid: str) -> None:
        try:
            self._api.delete_job(name, uid)
        except Absent:
            self._view.note_job_gone(key)

    def _let_go(self, key: str, attempt: ClusterAttempt) -> None:
        """Let a Job go that somebody has deleted before its program began: it is created again then."""
        if attempt.job is None or not (_is_confirmed(attempt) and self._view.has_looked(attempt)):
            return
        if self._view.may_have_missed(attempt):
            self._end(key, Rejected("lost", _UNSEEN))
        elif FINALIZER in (attempt.job["metadata"].get("finalizers") or ()):
            metadata = attempt.job["metadata"]
            # Before it is asked for: no pod is made of it any more, whether that is answered or not.
            self._let_go_of[key] = uid_of(attempt.job)
            work = partial(self._api.drop_finalizer, metadata["name"], metadata["uid"], FINALIZER)
            self._acts.begin(key, "let go of a deleted Job", work)

    def _is_taken_away(self, key: str, attempt: ClusterAttempt | None) -> bool:
        """Tell whether a Job that was created is gone, or is another one, though this worker has not let it go."""
        created = self._created.get(key)
        if created is None or self._let_go_of.get(key) == created:
            return False
        if attempt is None:
            return True
        if attempt.job is not None:
            return uid_of(attempt.job) != created
        # A pod that it has left is followed, and one that was seen to start has an end.
        return not attempt.has_started and all(record.is_gone for record in attempt.pods.values())


def _waits_for(attempt: ClusterAttempt, events: Sequence[Mapping[str, Any]]) -> LaunchWait:
    pod = attempt.pod
    return launch_wait(attempt.job, None if pod is None else pod.pod, events)


def _is_creating(pod: Mapping[str, Any]) -> bool:
    waiting = (main_status(pod).get("state") or {}).get("waiting") or {}
    return not has_started(pod) and waiting.get("reason") in (None, "ContainerCreating", "PodInitializing")


def _is_confirmed(attempt: ClusterAttempt) -> bool:
    """Tell whether a Job that is being deleted has no pods any more, and will have none."""
    left = [record for record in attempt.pods.values() if not record.is_gone]
    finalizers = [] if attempt.job is None else attempt.job["metadata"].get("finalizers") or []
    return not left and all(name == FINALIZER for name in finalizers)

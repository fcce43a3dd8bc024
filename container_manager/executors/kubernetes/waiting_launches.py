"""Launches that wait, without a thread, until their programs start, or it is certain that these will not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from ..base import ExecutorError, Rejected, Waiting
from .api_fields import event_time, has_started, is_bound, main_status, uid_of
from .cluster_acts import ClusterActs
from .cluster_answers import Absent
from .cluster_api import ClusterApi
from .cluster_attempt import ClusterAttempt
from .cluster_view import ClusterView
from .kubernetes_options import KubernetesOptions
from .labels import FINALIZER
from .launch_waits import LaunchWait, launch_wait

# How long an object that a pod needs may be missing: it may be created right now, or be on its way to the node.
_CONFIG_SECONDS = 30.0
# What is waited for in other words is passed on at most this often.
_TELL_SECONDS = 5.0
# After this much waiting the cluster is asked for events that say why; then again after pauses that double.
_EVENTS_SECONDS, _LONGEST_EVENTS_SECONDS = 1.0, 30.0
_STOPPED = "It was stopped before it had started."
GONE = "Its Job is gone, though this worker has not dropped its finalizer. Its program may have run."
_UNSEEN = "Its Job was deleted while its pods could not be seen. Its program may have run."


@dataclass(slots=True, kw_only=True, eq=False)
class WaitingLaunch:
    """A launch that waits. Guarded by the lock of `WaitingLaunches`.

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


class WaitingLaunches:
    """Launches that wait, by their attempts' keys, and which ones are in progress. Any thread may call it."""

    def __init__(self, api: ClusterApi, view: ClusterView, acts: ClusterActs, options: KubernetesOptions) -> None:
        self._api, self._view, self._acts, self._options = api, view, acts, options
        self._lock = threading.Lock()
        self._waits: dict[str, WaitingLaunch] = {}
        # The uids of Jobs that are known to have been created, and of those whose finalizer this worker has dropped.
        self._created: dict[str, str] = {}
        self._finalizer_dropped: dict[str, str] = {}
        self._launching: set[str] = set()
        self._cancelled: set[str] = set()

    def begin(self, key: str) -> None:
        """Note that a launch is in progress: `cancel` ends it then, too."""
        with self._lock:
            self._launching.add(key)

    def leave(self, key: str) -> None:
        """Note that a launch is in progress no more: it is over, has failed, or waits."""
        with self._lock:
            self._launching.discard(key)
            self._cancelled.discard(key)

    def get(self, key: str) -> WaitingLaunch | None:
        """Return what is known of a launch that waits, or has waited until it was submitted again."""
        with self._lock:
            return self._waits.get(key)

    def note_created(self, key: str, uid: str) -> None:
        """Note that a Job is known to have been created."""
        self._created[key] = uid

    def is_taken_away(self, key: str, attempt: ClusterAttempt | None) -> bool:
        """Tell whether a Job that was created is gone, or is another one, though its finalizer was not dropped here."""
        created = self._created.get(key)
        if created is None or self._finalizer_dropped.get(key) == created:
            return False
        if attempt is None:
            return True
        if attempt.job is not None:
            return uid_of(attempt.job) != created
        # A pod that it has left is followed, and one that was seen to start has an end.
        return not attempt.has_started and all(record.is_gone for record in attempt.pods.values())

    def tend(self, key: str) -> None:
        """Look whether a launch need not wait any more, or waits for something else."""
        with self._lock:
            wait = self._waits.get(key)
        if wait is None or wait.until.done():
            return
        now = time.monotonic()
        if wait.failing is None and wait.again_at is not None:
            if now >= wait.again_at:
                self.end(key, None)
            return
        attempt = self._view.attempt(key)
        if self.is_taken_away(key, attempt):
            self.end(key, Rejected("lost", GONE))
        elif attempt is None:
            # Its Job's finalizer was dropped, and it is gone.
            self.end(key, wait.failing)
        elif wait.failing is not None and not attempt.has_run:
            # Whatever the node makes of the pod that is deleted.
            self._end_failing(key, wait, attempt)
        elif attempt.has_started or attempt.exit is not None:
            self.end(key, None)
        elif attempt.is_deleting:
            self._drop_finalizer(key, attempt)
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
        """Drop what is remembered of an attempt's Job. A launch that waits is not ended by that."""
        with self._lock:
            self._created.pop(key, None)
            self._finalizer_dropped.pop(key, None)

    def wait(self, key: str, what: str, note: Callable[[str], None], *, again: float | None = None) -> NoReturn:
        """Raise Waiting; ``again``: submit it again after so many seconds, whatever happens."""
        with self._lock:
            former = self._waits.get(key)
            wait = self._waits[key] = WaitingLaunch(what=what, note=note)
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

    def end(self, key: str, error: ExecutorError | None) -> None:
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

    def _look(self, key: str, wait: WaitingLaunch, attempt: ClusterAttempt, now: float) -> None:
        """Let the clock of what a launch waits for run, and fail it where that is over."""
        self._ask_for_events(key, wait, attempt, now)
        waits_for, answered = attempt_wait(attempt, wait.events), self._view.answered_seconds
        # A clock begins again only when what it counts is over: problems with an image come and go between two pulls.
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
            self.end(key, None)

    def _failure(self, waits_for: LaunchWait, seconds: float) -> Rejected | None:
        """Return how a launch fails that has waited this long for what it waits for now; None: it goes on."""
        what, options = waits_for.what, self._options
        is_believed = not waits_for.is_doubtful or seconds >= min(_CONFIG_SECONDS, options.image_seconds)
        if waits_for.final and is_believed:
            return Rejected(waits_for.final, f"The cluster will not start it: {what}")
        if waits_for.kind in ("image", "node") and seconds >= options.image_seconds:
            return Rejected("unavailable", f"Gave up after {options.image_seconds:g} s of waiting for {what}")
        if waits_for.kind == "config" and seconds >= _CONFIG_SECONDS:
            return Rejected("start", f"Gave up after {_CONFIG_SECONDS:g} s of waiting for {what}")
        limit = options.unschedulable_seconds
        if waits_for.kind == "schedule" and limit is not None and seconds >= limit:
            return Rejected(
                "unschedulable",
                f"Gave up after {limit:g} s of waiting for {what} Ask for less, or give the cluster more nodes.",
            )
        return None

    def _ask_for_events(self, key: str, wait: WaitingLaunch, attempt: ClusterAttempt, now: float) -> None:
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

    def _tell_events(self, wait: WaitingLaunch) -> None:
        """Put the evidence into the attempt's log, before anything is deleted."""
        for event in sorted(wait.events, key=event_time)[-10:]:
            wait.note(f"The cluster says: {event.get('reason', '')}: {event.get('message', '')}")

    def _end_failing(self, key: str, wait: WaitingLaunch, attempt: ClusterAttempt) -> None:
        """Delete what was created of a launch that fails, and end its wait once that is confirmed."""
        if attempt.is_deleting and _is_confirmed(attempt):
            self.end(key, Rejected("lost", _UNSEEN) if self._view.may_have_missed(attempt) else wait.failing)
        elif attempt.job is not None and not attempt.is_deleting:
            metadata = attempt.job["metadata"]
            work = partial(self._delete, key, metadata["name"], metadata["uid"])
            self._acts.begin(key, "delete what did not start", work)

    def _delete(self, key: str, name: str, uid: str) -> None:
        try:
            self._api.delete_job(name, uid)
        except Absent:
            self._view.note_job_gone(key)

    def _drop_finalizer(self, key: str, attempt: ClusterAttempt) -> None:
        """Drop the finalizer of a Job that somebody has deleted before its program began: it is created again then."""
        if attempt.job is None or not (_is_confirmed(attempt) and self._view.has_looked(attempt)):
            return
        if self._view.may_have_missed(attempt):
            self.end(key, Rejected("lost", _UNSEEN))
        elif FINALIZER in (attempt.job["metadata"].get("finalizers") or ()):
            metadata = attempt.job["metadata"]
            # Before it is asked for: no pod is made of it any more, whether that is answered or not.
            self._finalizer_dropped[key] = uid_of(attempt.job)
            work = partial(self._api.drop_finalizer, metadata["name"], metadata["uid"], FINALIZER)
            self._acts.begin(key, "drop the finalizer of a deleted Job", work)


def attempt_wait(attempt: ClusterAttempt, events: Sequence[Mapping[str, Any]]) -> LaunchWait:
    """Return what an attempt waits for; ``events``: warnings about its Job or pod."""
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

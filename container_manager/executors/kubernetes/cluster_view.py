"""The Jobs and pods of this installation: lists taken by the clock are the truth, watches make it quick."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from ...jobs.package_log import package_logger
from ..base import ExecutorError, ExitStatus, Observation, Observations, Phase, Unavailable
from .cluster_api import ApiStream, ClusterApi, Outdated, Overloaded
from .labels import POD_ANNOTATION, PROVEN_STOP_ANNOTATION, install_selector, is_of, key_of
from .pod_verdict import (
    NODE_GIVEN_UP,
    counted_pods,
    deletion_asked_at,
    disruption,
    end_reported_at,
    gone_exit,
    has_run,
    has_started,
    is_bound,
    is_over,
    jobs_own_end,
    main_status,
    never_resumed,
    pod_exit,
    uid_of,
    unreachable_exit,
)

# A new list after this many seconds, and the more objects there are the later: a list of 500 pods is about 3 MB.
_LIST_SECONDS, _LIST_SECONDS_PER_OBJECT = 5.0, 0.05
_LONGEST_LIST_SECONDS = 60.0
# The pause before a server that did not answer is asked again: from the first to the longest.
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 5.0
# A watch that has ended before this was refused, or is cut by something in between.
_SHORT_WATCH_SECONDS = 2.0
_CLOSE_SECONDS = 0.5
# How long an attempt that was removed stays hidden while the cluster ends it.
_HIDDEN_SECONDS = 120.0
# On top of its grace period, before a pod on a node that does not answer counts as lost with it.
_UNREACHABLE_SECONDS = 10.0
_KINDS = ("jobs", "pods")
logger = package_logger(__name__)


@dataclass(slots=True, kw_only=True)
class PodRecord:
    """What is known of a pod. ``asked_at``: when its deletion was asked for first, by the cluster's clock.

    ``ended_at``: by when its node had reported the end, by the same clock: what a node reports later is not counted.
    ``doomed_since``: since when the control plane has given up on its node (monotonic seconds). ``container_id``: the
    first of its container; ``is_twice``: there was another. ``is_gone``: the API has it no more.
    """

    pod: Mapping[str, Any]
    asked_at: datetime | None = None
    ended_at: datetime | None = None
    doomed_since: float | None = None
    container_id: str = ""
    is_twice: bool = False
    is_gone: bool = False
    seen_at: float = 0.0

    def take(self, pod: Mapping[str, Any]) -> None:
        """Note a newer state of the pod."""
        self.pod, self.seen_at = _without_words(pod), time.monotonic()
        if (asked := deletion_asked_at(pod)) is not None:
            self.asked_at = asked if self.asked_at is None else min(asked, self.asked_at)
        if (ended := end_reported_at(pod)) is not None:
            self.ended_at = ended if self.ended_at is None else min(ended, self.ended_at)
        if disruption(pod) in NODE_GIVEN_UP and self.doomed_since is None:
            self.doomed_since = time.monotonic()
        status = main_status(pod)
        container = str(status.get("containerID") or "")
        if container and self.container_id and container != self.container_id:
            self.is_twice = True
        self.container_id = self.container_id or container
        self.is_twice = self.is_twice or int(status.get("restartCount") or 0) > 0

    def exit(self) -> ExitStatus | None:
        if self.is_gone:
            return gone_exit(self.pod, asked_at=self.asked_at, ended_at=self.ended_at, is_twice=self.is_twice)
        return pod_exit(self.pod, asked_at=self.asked_at, ended_at=self.ended_at, is_twice=self.is_twice)

    def is_lost_with_node(self, now: float) -> bool:
        if self.doomed_since is None or not self.pod["metadata"].get("deletionTimestamp"):
            return False
        grace = float(self.pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        return now - self.doomed_since >= grace + _UNREACHABLE_SECONDS


@dataclass(slots=True, kw_only=True)
class ClusterAttempt:
    """What is known of one attempt. Times are this machine's monotonic seconds.

    ``job``: None where the API has none (any more). ``job_seen_at``: since when it is known as it is now; ``kept_at``:
    when it was last known not to be deleted. ``recorded``: the uid of the pod whose end is the attempt's, as the Job's
    annotation says, or as it will. ``has_run``: whether the program itself was seen to run. ``exit``: how it ended;
    once it is known it stays.
    """

    key: str
    job: Mapping[str, Any] | None = None
    job_seen_at: float = 0.0
    kept_at: float = 0.0
    pods: dict[str, PodRecord] = field(default_factory=dict)
    recorded: str = ""
    recorded_at: float = 0.0
    exit: ExitStatus | None = None
    has_started: bool = False
    has_run: bool = False
    hidden_until: float = 0.0

    @property
    def pod(self) -> PodRecord | None:
        """The pod whose end is the attempt's, or will be."""
        if self.recorded:
            return self.pods.get(self.recorded)
        return self.first_pod()

    @property
    def is_recorded(self) -> bool:
        """Whether the Job itself says which pod's end is the attempt's."""
        return self.job is None or (self.job["metadata"].get("annotations") or {}).get(POD_ANNOTATION) == self.recorded

    def first_pod(self) -> PodRecord | None:
        there = [record for record in self.pods.values() if not record.is_gone]
        return min(there, key=lambda each: (each.pod["metadata"]["creationTimestamp"], uid_of(each.pod)), default=None)

    def others(self) -> list[PodRecord]:
        """Return pods beside the recorded one that are there."""
        return [record for uid, record in self.pods.items() if self.recorded not in ("", uid) and not record.is_gone]

    def note_job(self, job: Mapping[str, Any] | None) -> None:
        now = time.monotonic()
        if job is None or self.job is None or not _is_same(job, self.job):
            self.job_seen_at = now
        if job is not None and not job["metadata"].get("deletionTimestamp"):
            self.kept_at = now
        self.job = job and _without_template(job)
        said = str((job or {"metadata": {}})["metadata"].get("annotations", {}).get(POD_ANNOTATION, ""))
        if said and said != self.recorded:
            self.recorded, self.recorded_at = said, time.monotonic()

    def record(self) -> None:
        """Take the pod that has a node for the attempt's: one without has run nothing, and may be replaced."""
        if not self.recorded and (first := self.first_pod()) is not None and is_bound(first.pod):
            self.recorded, self.recorded_at = uid_of(first.pod), time.monotonic()

    @property
    def needs_proof(self) -> bool:
        job = self.job or {"metadata": {}}
        return (job["metadata"].get("annotations") or {}).get(PROVEN_STOP_ANNOTATION) == "true"

    def judge(self, pods_listed_at: float) -> None:
        """Note whether the program has started, and how it ended, once that is certain."""
        if self.exit is not None:
            return
        self.record()
        pod = self.pod
        if pod is not None:
            self.has_started = self.has_started or has_started(pod.pod)
            self.has_run = self.has_run or has_run(pod.pod)
        found: ExitStatus | None = None
        if pod is not None:
            found = pod.exit()
            if found is None and pod.is_lost_with_node(time.monotonic()) and not self.needs_proof:
                found = unreachable_exit(pod.pod)
        elif self.recorded and pods_listed_at > self.recorded_at:
            found = gone_exit(None)
        elif self.job is not None and pods_listed_at > self.job_seen_at:
            found = jobs_own_end(self.job)
        if found is not None and (run := [each for each in self.others() if has_started(each.pod)]):
            if not all(is_over(each.pod) for each in run):
                # They are being stopped. The attempt ends when nothing of it runs.
                return
            name = run[0].pod["metadata"]["name"]
            text = f"The cluster ran the program a second time, in the pod {name}, so its verdict is worth nothing."
            found = ExitStatus(code=found.code, lost=True, message=text)
        self.exit = found

    @property
    def phase(self) -> Phase:
        if self.exit is not None:
            return Phase.EXITED
        return Phase.RUNNING if self.has_started or self.recorded else Phase.CREATED

    @property
    def is_stopped(self) -> bool:
        """Whether nothing of the attempt runs or will, as far as the API tells: for what it must not run beside."""
        return all(each.is_gone or is_over(each.pod) for each in self.pods.values())

    @property
    def is_deleting(self) -> bool:
        return self.job is None or bool(self.job["metadata"].get("deletionTimestamp"))


class ClusterView:
    """Attempts by their keys, kept up to date by two threads.

    ``changed`` is called, by these threads, with the keys of attempts of which something may be new; with none where
    the cluster has answered again, or does not any more.
    """

    def __init__(self, api: ClusterApi, *, install: str, changed: Callable[[Iterable[str]], None]) -> None:
        self._api, self._install, self._changed = api, install, changed
        self._selector = install_selector(install)
        # Guards all that follows.
        self._state = threading.Condition()
        self._attempts: dict[str, ClusterAttempt] = {}
        # Those that this worker runs: their ends stay known, also when the cluster has nothing more of them.
        self._followed: set[str] = set()
        self._listed_at: dict[str, float] = dict.fromkeys(_KINDS, 0.0)
        # Before this, pods may have come and gone unseen: when they were listed for the first time since a list failed.
        self._pods_unseen_until = 0.0
        self._errors: dict[str, Unavailable] = {}
        # For how long the cluster has answered: clocks of launches stand still while it does not.
        self._answered_seconds, self._counted_at = 0.0, 0.0
        self._streams: dict[str, ApiStream] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    def observe(self) -> Observations:
        """Return what is known; raise Unavailable where the cluster did not answer the last question."""
        self._start()
        with self._state:
            if self._errors:
                error = next(iter(self._errors.values()))
                raise Unavailable(str(error)) from error
            now = time.monotonic()
            attempts = []
            for each in self._attempts.values():
                each.judge(self._listed_at["pods"])
                if each.hidden_until < now:
                    attempts.append(Observation(each.key, each.key, each.phase, each.exit))
            as_of = min(self._listed_at.values())
        engine = f"namespace {self._api.namespace}" if as_of else ""
        return Observations(attempts=attempts, as_of=as_of, engine=engine[:64])

    def attempt(self, key: str) -> ClusterAttempt | None:
        """Return a copy of what is known of an attempt, judged as of now."""
        self._start()
        with self._state:
            if (found := self._attempts.get(key)) is None:
                return None
            found.judge(self._listed_at["pods"])
            return replace(found, pods={uid: replace(record) for uid, record in found.pods.items()})

    def follow(self, key: str) -> bool:
        """Keep how an attempt ends until it is forgotten; return whether that is new."""
        with self._state:
            is_new = key not in self._followed
            self._followed.add(key)
            return is_new

    def siblings(self, key: str) -> list[ClusterAttempt]:
        """Return other attempts of the same job of which something may still run.

        Raises Unavailable before the cluster has said what it holds.
        """
        self._start()
        prefix, _, number = key.rpartition("-")
        with self._state:
            if not min(self._listed_at.values()) and number != "1":
                raise Unavailable(str(self._errors.get("pods") or "The cluster has not yet said what it holds."))
            others = [each for each in self._attempts.values() if each.key.rpartition("-")[0] == prefix]
            for each in others:
                each.judge(self._listed_at["pods"])
            return [each for each in others if each.key != key and each.exit is None and not each.is_stopped]

    def has_looked(self, attempt: ClusterAttempt) -> bool:
        """Tell whether a pod that a Job has had is known: one that was just made may be told of after the Job is."""
        if attempt.pods or attempt.job is None or never_resumed(attempt.job):
            return True
        with self._state:
            return self._listed_at["pods"] > attempt.job_seen_at

    def may_have_missed(self, attempt: ClusterAttempt) -> bool:
        """Tell whether a Job that is being deleted may have had a pod with a node that this view has never seen.

        Its own status does not say so: from its deletion on its controller lets pods go without counting them.
        """
        if attempt.job is None or never_resumed(attempt.job):
            return False
        if counted_pods(attempt.job) > len(attempt.pods):
            return True
        with self._state:
            unseen_until = self._pods_unseen_until
        # One that was seen since, and had no node then, was the only one.
        return attempt.kept_at < unseen_until and all(each.seen_at < unseen_until for each in attempt.pods.values())

    @property
    def answers(self) -> bool:
        """Whether the cluster has answered the last question."""
        with self._state:
            return not self._errors

    @property
    def answered_seconds(self) -> float:
        """For how many seconds the cluster has answered so far."""
        with self._state:
            self._count()
            return self._answered_seconds

    def note_job(self, key: str, job: Mapping[str, Any]) -> None:
        """Note a Job that the API has just shown, before a list or a watch does."""
        with self._state:
            found = self._attempts.setdefault(key, ClusterAttempt(key=key))
            found.hidden_until = 0.0
            if found.job is None or uid_of(found.job) != uid_of(job) or _version(job) >= _version(found.job):
                found.note_job(job)

    def note_job_gone(self, key: str) -> None:
        """Note that the API has no Job of this attempt."""
        with self._state:
            if (found := self._attempts.get(key)) is not None:
                found.job, found.job_seen_at = None, time.monotonic()
                self._drop_if_empty(found)

    def unfollow(self, key: str) -> None:
        """Forget an attempt once the cluster has nothing more of it."""
        with self._state:
            self._followed.discard(key)
            if (found := self._attempts.get(key)) is not None:
                self._drop_if_empty(found)

    def hide(self, key: str) -> None:
        """Leave out an attempt that was removed, while the cluster ends it."""
        with self._state:
            if (found := self._attempts.get(key)) is not None:
                found.hidden_until = time.monotonic() + _HIDDEN_SECONDS

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
            streams = list(self._streams.values())
        for stream in streams:
            stream.interrupt()
        for thread in self._threads:
            thread.join(timeout=_CLOSE_SECONDS)

    # -- the two threads -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._state:
            if not self._threads and not self._closed:
                self._counted_at = time.monotonic()
                for kind in _KINDS:
                    work = partial(self._follow, kind)
                    thread = threading.Thread(target=work, name=f"container-manager-view-{kind}", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _follow(self, kind: str) -> None:
        """List and watch, until closed (a thread of its own)."""
        pause = _RETRY_SECONDS
        while not self._closed:
            began, asked = time.monotonic(), None
            try:
                self._list_and_watch(kind)
            except Exception as error:
                # Whatever it is, this thread must go on: without it no end would ever be seen again.
                if not isinstance(error, ExecutorError):
                    logger.exception("The cluster's answer was not understood")
                asked = error.retry_after if isinstance(error, Overloaded) else None
                with self._state:
                    self._count()
                    self._errors[kind] = Unavailable(str(error))
                self._changed(())
            else:
                if time.monotonic() - began >= _SHORT_WATCH_SECONDS:
                    pause = _RETRY_SECONDS
                    continue
            # A server that answers lists alone, or ends each watch at once, is not asked in a circle either.
            with self._state:
                self._state.wait_for(lambda: self._closed, timeout=max(pause, asked or 0.0))
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def _list_and_watch(self, kind: str) -> None:
        asked = time.monotonic()
        found, version = self._api.list(kind, self._selector)
        with self._state:
            self._count()
            has_failed = self._errors.pop(kind, None) is not None
            if kind == "pods" and (has_failed or not self._listed_at[kind]):
                self._pods_unseen_until = asked
            changed = self._take_list(kind, found, asked)
            self._listed_at[kind] = asked
            seconds = min(_LIST_SECONDS + _LIST_SECONDS_PER_OBJECT * len(found), _LONGEST_LIST_SECONDS)
        self._changed(changed)
        # Whatever ends the watch, a new list says what is so: only one that fails, too, tells that the server is away.
        try:
            with self._api.watch(kind, self._selector, version, seconds=seconds) as stream:
                with self._state:
                    if self._closed:
                        return
                    self._streams[kind] = stream
                self._take_events(kind, stream)
        except ExecutorError as error:
            logger.debug("The watch of %s has ended: %s", kind, error)
        finally:
            with self._state:
                self._streams.pop(kind, None)

    def _take_events(self, kind: str, stream: ApiStream) -> None:
        for event in stream.lines():
            try:
                what, found = str(event["type"]), event["object"]
                if what == "ERROR":
                    raise Outdated(str(found.get("message") or "The watch has ended with an error."))
                if what == "BOOKMARK" or not is_of(found["metadata"], self._install):
                    continue
                with self._state:
                    key = self._take(kind, found, is_gone=what == "DELETED")
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                # A proxy's words, perhaps. What is so is in the next list.
                raise Outdated(f"An event of the watch was not understood: {error!r}") from error
            if key:
                self._changed((key,))

    # -- what is known (the caller holds the lock) -------------------------------------------------------------------

    def _take_list(self, kind: str, found: Iterable[Mapping[str, Any]], asked: float) -> set[str]:
        """Replace what was known before the cluster was asked for this list; return the keys that it is about."""
        listed = {uid_of(each): each for each in found if is_of(each["metadata"], self._install)}
        keys = {key for each in listed.values() if (key := self._take(kind, each, is_gone=False))}
        for attempt in [*self._attempts.values()]:
            if kind == "jobs":
                job = attempt.job
                if job is not None and uid_of(job) not in listed and attempt.job_seen_at < asked:
                    attempt.job = None
                    keys.add(attempt.key)
            else:
                for uid, record in attempt.pods.items():
                    if uid not in listed and record.seen_at < asked and not record.is_gone:
                        record.is_gone = True
                        keys.add(attempt.key)
            self._drop_if_empty(attempt)
        return keys

    def _take(self, kind: str, found: Mapping[str, Any], *, is_gone: bool) -> str:
        if not (key := key_of(found["metadata"])):
            return ""
        attempt = self._attempts.setdefault(key, ClusterAttempt(key=key))
        if kind == "jobs":
            if is_gone:
                if attempt.job is None or uid_of(attempt.job) == uid_of(found):
                    attempt.job, attempt.job_seen_at = None, time.monotonic()
            else:
                attempt.note_job(found)
        else:
            record = attempt.pods.setdefault(uid_of(found), PodRecord(pod={}))
            record.take(found)
            record.is_gone = is_gone
        attempt.judge(self._listed_at["pods"])
        self._drop_if_empty(attempt)
        return key

    def _drop_if_empty(self, attempt: ClusterAttempt) -> None:
        """Forget an attempt of which the cluster has nothing more, once that was asked for.

        One that this worker runs stays, with its end, if it had begun.
        """
        is_empty = attempt.job is None and all(record.is_gone for record in attempt.pods.values())
        stays = attempt.key in self._followed and (attempt.recorded or attempt.has_started)
        if is_empty and not stays:
            self._attempts.pop(attempt.key, None)

    def _count(self) -> None:
        now = time.monotonic()
        if not self._errors:
            self._answered_seconds += now - self._counted_at
        self._counted_at = now


def _without_template(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a Job without what it runs: a worker keeps those of all workers in memory."""
    metadata = {name: value for name, value in job["metadata"].items() if name != "managedFields"}
    spec = {name: value for name, value in (job.get("spec") or {}).items() if name != "template"}
    return {**job, "metadata": metadata, "spec": spec}


def _without_words(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a pod without its commands and the values of its variables, as `_without_template`."""
    metadata = {name: value for name, value in pod["metadata"].items() if name != "managedFields"}
    spec = dict(pod.get("spec") or {})
    spec["containers"] = [
        {
            **{name: value for name, value in each.items() if name not in ("command", "args")},
            "env": [{"name": variable["name"]} for variable in each.get("env") or ()],
        }
        for each in spec.get("containers") or ()
    ]
    return {**pod, "metadata": metadata, "spec": spec}


def _is_same(job: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether both are the same state of the same Job."""
    return uid_of(job) == uid_of(other) and _version(job) == _version(other)


def _version(found: Mapping[str, Any]) -> int:
    """Return an object's version as a number: those of one object grow (they are compared so since Kubernetes 1.35)."""
    try:
        return int(found["metadata"].get("resourceVersion", 0))
    except ValueError:
        return 0

"""The Jobs and pods of this installation: lists taken by the clock are the truth, watches make it quick."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...jobs.package_log import package_logger
from ..base import ExecutorError, Observation, Observations, Unavailable
from .api_fields import counted_pods, never_resumed, uid_of, version_of
from .cluster_answers import ApiStream, Outdated, Overloaded
from .cluster_api import ClusterApi
from .cluster_attempt import ClusterAttempt, PodRecord
from .labels import install_selector, is_of, key_of

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
_KINDS = ("jobs", "pods")
logger = package_logger(__name__)


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
            if found.job is None or uid_of(found.job) != uid_of(job) or version_of(job) >= version_of(found.job):
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

"""The attempts in a worker's hands, and the engines that run them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from .. import store
from ..conf import AppSettings
from ..executors.base import (
    DependencyUnavailable,
    Executor,
    ExecutorError,
    ExitStatus,
    Observation,
    Phase,
    Rejected,
    Unavailable,
)
from .capped_output import CappedOutput
from .launch_spec import attempt_of, launch_key
from .launcher import Launcher, attempt
from .outcomes import closed, failed, outcome_of
from .runs import AttemptKey, Run, Stage
from .timers import Timer

_FLUSH_SECONDS = 0.5
logger = logging.getLogger(__name__)


class Engines:
    """Starts attempts, watches them, stops and removes them. It never touches the database.

    Only the worker's own thread calls it; others wait for engines, and call ``wake`` when there is something new.
    """

    def __init__(self, executors: Mapping[str, Executor], settings: AppSettings, wake: Callable[[], None]) -> None:
        self.held: dict[AttemptKey, Run] = {}
        self._executors, self._settings, self._wake = dict(executors), settings, wake
        self._launches = Launcher(settings, wake)
        self._changed: dict[str, bool] = dict.fromkeys(self._executors, True)
        # An engine that is not part of this worker is away until it has said what it holds.
        started = time.monotonic()
        self._unavailable_since: dict[str, float] = {
            alias: started for alias, executor in self._executors.items() if executor.capabilities.survives_worker
        }
        self._came_back = False
        # The aliases of which the log says that they are away.
        self._said_away: set[str] = set()
        self._flush = Timer(_FLUSH_SECONDS)
        self._observe = Timer(settings.poll_seconds)
        self._ended = threading.Event()
        self._watchers = [self._watcher(alias) for alias in self._executors]

    @property
    def aliases(self) -> list[str]:
        return list(self._executors)

    @property
    def reachable(self) -> list[str]:
        """The aliases whose engines answered when last asked."""
        return [alias for alias in self._executors if alias not in self._unavailable_since]

    @property
    def away(self) -> list[str]:
        """The aliases whose engines did not answer when last asked, and may yet."""
        return [alias for alias in self._unavailable_since if alias not in self.given_up]

    @property
    def given_up(self) -> list[str]:
        """The aliases whose engines have not answered for as long as it takes for their attempts to be lost."""
        before = time.monotonic() - self._settings.unreachable_seconds
        return [alias for alias, since in self._unavailable_since.items() if since <= before]

    def take_came_back(self) -> bool:
        """Tell whether an engine that was away has answered since this was last asked."""
        came_back, self._came_back = self._came_back, False
        return came_back

    @property
    def timers(self) -> list[Timer]:
        """What it waits for."""
        return [self._flush, self._observe] if self.held else []

    def start(self) -> None:
        for watcher in self._watchers:
            watcher.start()

    def close(self) -> None:
        """Let go of the engines; what does not survive its worker ends."""
        self._ended.set()
        for executor in self._executors.values():
            executor.close()
        self._launches.close()
        for watcher in self._watchers:
            if watcher.is_alive():
                watcher.join()

    def heartbeat(self, seconds: float) -> None:
        for executor in self._executors.values():
            executor.heartbeat(seconds)

    def turn(self) -> None:
        """Take note of what has happened since."""
        self._collect_launches()
        self._collect_exits()
        self._stop_overdue()
        if self._flush.is_due():
            self._read_outputs()
        self._read_last_outputs()

    def take_on(self, job: store.ClaimedJob) -> None:
        """Start a claimed job."""
        held = self._hold(job)
        self._launches.begin(held)

    def adopt(self, found: store.OwnedAttempt, *, by: str) -> None:
        """Take an attempt that another worker began (or this one, before the database forgot to answer)."""
        job = found.job
        held = self._hold(job, adopted=True)
        held.handle, held.handle_stored, held.stage = found.handle or held.key, bool(found.handle), Stage.RUNNING
        held.running_since = time.monotonic()
        if found.status != "running":
            self.stop(held, "cancelled", grace=job.spec.grace_seconds)
        elif not found.handle and (held.executor.capabilities.survives_worker or found.claimed_by == by):
            # Nobody knows whether it was started (starting is idempotent), or the answer to the claim was lost.
            held.stage = Stage.LAUNCHING
            self._launches.begin(held)
        self._changed[job.spec.executor] = True

    def stop(self, held: Run, why: str, *, grace: float) -> None:
        """Have an attempt stopped; ``why`` decides what its end will mean."""
        held.stopped_for = why
        if held.stage in (Stage.LAUNCHING, Stage.RUNNING):
            result = attempt(lambda: held.executor.stop(held.handle or held.key, grace))
            if isinstance(result, Unavailable):
                held.stopped_for = None

    def disown(self, held: Run) -> None:
        """Drop an attempt that is no longer this worker's, and end what still runs of it here."""
        held.mine = False
        if held.stage is not Stage.LAUNCHING:
            self._forget(held)

    def let_go(self, held: Run) -> None:
        """Drop an attempt whose end is stored, and remove what the engine has of it."""
        self.held.pop(held.id, None)
        failed = held.outcome is not None and held.outcome.status == "failed"
        self._remove(held.job.spec.executor, held.handle or held.key, failed=failed)

    def orphans(self) -> dict[str, dict[AttemptKey, str]]:
        """Return by alias what engines hold that this worker does not: attempts, and what the engine calls them."""
        found: dict[str, dict[AttemptKey, str]] = {}
        for alias, executor in self._executors.items():
            if executor.capabilities.survives_worker and alias not in self._unavailable_since:
                observed = attempt(executor.observe)
                if not isinstance(observed, Exception):
                    others = {attempt_of(o.key): o.handle for o in observed.attempts}
                    found[alias] = {key: handle for key, handle in others.items() if key and key not in self.held}
        return found

    def remove_orphan(self, alias: str, handle: str, *, failed: bool) -> None:
        """Remove what an engine holds of an attempt that is over."""
        self._remove(alias, handle, failed=failed)

    def _hold(self, job: store.ClaimedJob, *, adopted: bool = False) -> Run:
        now = time.monotonic()
        held = Run(
            job=job,
            executor=self._executors[job.spec.executor],
            key=launch_key(job, self._settings),
            output=CappedOutput(self._settings.log_limit_bytes, replaces=adopted),
            deadline=None if job.spec.timeout_seconds is None else now + job.spec.timeout_seconds - job.elapsed_seconds,
        )
        self.held[held.id] = held
        return held

    def _collect_launches(self) -> None:
        for held, result in self._launches.results():
            if held.stage is not Stage.LAUNCHING:
                continue
            if isinstance(result, str):
                self._note_running(held, result)
            elif not held.mine:
                self._forget(held)
            elif isinstance(result, Unavailable) and self._may_come_back(held):
                if not isinstance(result, DependencyUnavailable):
                    self._unavailable_since.setdefault(held.job.spec.executor, time.monotonic())
                self._launches.begin_later(held)
            else:
                self._end_unstarted(held, result)

    def _note_running(self, held: Run, handle: str) -> None:
        held.handle, held.stage, held.running_since = handle, Stage.RUNNING, time.monotonic()
        self._note_available(held.job.spec.executor)
        self._changed[held.job.spec.executor] = True
        if not held.mine:
            self._forget(held)
        elif held.stopped_for is not None:
            self.stop(held, held.stopped_for, grace=held.job.spec.grace_seconds)

    def _may_come_back(self, held: Run) -> bool:
        """Tell whether to try a launch again: its engine is not away for too long since the first time it failed."""
        # Not since the claim: an image may have been pulled for longer than that.
        held.launch_until = held.launch_until or time.monotonic() + self._settings.unreachable_seconds
        return time.monotonic() < held.launch_until

    def _end_unstarted(self, held: Run, error: Exception) -> None:
        if isinstance(error, Rejected):
            reason, message = error.reason, str(error)
        elif isinstance(error, Unavailable):
            reason, message = "lost", str(error)
        else:
            logger.error("Executor %s failed to launch job=%s", held.job.spec.executor, held.job.id, exc_info=error)
            reason, message = "start", f"The executor failed: {type(error).__name__}: {error}"
        held.stage = Stage.ENDED
        held.exit = ExitStatus(message=message)
        attempt(held.read_output)
        held.hand_out(everything=True)
        if held.stopped_for == "cancelled":
            held.outcome = closed(held.job, None, message)
        elif held.stopped_for is not None:
            held.outcome = outcome_of(held.job, ExitStatus(), stopped_for=held.stopped_for, retry=self._settings.retry)
        else:
            held.outcome = failed(held.job, reason, message, retry=self._settings.retry)

    def _collect_exits(self) -> None:
        every = self._observe.is_due()
        for alias, executor in self._executors.items():
            if not (every or self._changed[alias]):
                continue
            running = [
                held for held in self.held.values() if held.stage is Stage.RUNNING and held.job.spec.executor == alias
            ]
            if not running and alias not in self._unavailable_since and not executor.capabilities.survives_worker:
                continue
            self._changed[alias] = False
            try:
                observed = executor.observe()
            except Unavailable as error:
                self._note_unavailable(alias, running, error)
                continue
            if observed.as_of:
                self._note_available(alias)
            by_key = {o.key: o for o in observed.attempts}
            for held in running:
                self._take_note(held, by_key.get(held.key), observed.as_of)

    def _note_available(self, alias: str) -> None:
        if self._unavailable_since.pop(alias, None) is not None:
            self._came_back = True
        if alias in self._said_away:
            self._said_away.discard(alias)
            logger.warning("Executor %s answers again", alias)

    def _note_unavailable(self, alias: str, running: Iterable[Run], error: Unavailable) -> None:
        since = self._unavailable_since.setdefault(alias, time.monotonic())
        if alias not in self._said_away:
            self._said_away.add(alias)
            logger.warning("Executor %s does not answer, its jobs stay as they are: %s", alias, error)
        if time.monotonic() - since < self._settings.unreachable_seconds:
            return
        for held in running:
            # What was cancelled is over only when it is known to be.
            if held.stopped_for != "cancelled":
                self._give_up(held, f"The engine could not be reached: {error}")

    def _take_note(self, held: Run, observation: Observation | None, as_of: float) -> None:
        if observation is None or observation.phase is Phase.CREATED:
            if as_of >= held.running_since:
                self._give_up(held, "The engine no longer runs this attempt.")
        elif observation.phase is Phase.EXITED:
            held.stage, held.exit = Stage.EXITED, observation.exit or ExitStatus(lost=True)
            held.exited_at = time.monotonic()

    def _read_last_outputs(self) -> None:
        """Read on from what has exited, and end what is read; in the end without that which cannot be read."""
        for held in [held for held in self.held.values() if held.stage is Stage.EXITED]:
            try:
                complete = held.read_output(to_end=True)
            except ExecutorError:
                complete = False
            if complete or time.monotonic() - held.exited_at > self._settings.unreachable_seconds:
                if not complete:
                    logger.warning("The end of the output of job=%s attempt=%s could not be read", *held.id)
                self._end(held, held.exit or ExitStatus(lost=True))

    def _give_up(self, held: Run, message: str) -> None:
        attempt(held.read_output)
        self._end(held, ExitStatus(lost=True, message=message))

    def _end(self, held: Run, exit_status: ExitStatus) -> None:
        held.hand_out(everything=True)
        held.stage, held.exit = Stage.ENDED, exit_status
        if not held.mine:
            self._forget(held)
        elif held.stopped_for == "cancelled":
            held.outcome = closed(held.job, exit_status, "Stopped: the job was cancelled.")
        else:
            held.outcome = outcome_of(held.job, exit_status, stopped_for=held.stopped_for, retry=self._settings.retry)

    def _stop_overdue(self) -> None:
        for held in self.held.values():
            if held.stage in (Stage.LAUNCHING, Stage.RUNNING) and held.is_overdue():
                self.stop(held, "timeout", grace=held.job.spec.grace_seconds)

    def _forget(self, held: Run) -> None:
        if self.held.get(held.id) is not held:
            # Taken back meanwhile, from whoever had it in between.
            return
        del self.held[held.id]
        if held.executor.capabilities.survives_worker:
            # Whoever took the job may have adopted the container: it is that worker's to end.
            held.executor.release(held.handle or held.key)
        elif held.handle:
            self._remove(held.job.spec.executor, held.handle, failed=False)

    def _remove(self, alias: str, handle: str, *, failed: bool) -> None:
        executor = self._executors[alias]
        # One that cannot be removed now is found by the next sweep.
        self._launches.run(alias, executor, partial(executor.remove, handle, failed=failed), done=lambda _: None)

    def _read_outputs(self) -> None:
        for held in self.held.values():
            if held.stage in (Stage.LAUNCHING, Stage.RUNNING):
                attempt(held.read_output)

    def _watcher(self, alias: str) -> threading.Thread:
        executor = self._executors[alias]

        def watch() -> None:
            while not self._ended.is_set():
                try:
                    changed = executor.watch(0.5)
                except Unavailable:
                    self._ended.wait(0.5)
                    continue
                if changed:
                    self._changed[alias] = True
                    self._flush.hurry()
                    self._wake()

        return threading.Thread(target=watch, name=f"container-manager-watch-{alias}", daemon=True)

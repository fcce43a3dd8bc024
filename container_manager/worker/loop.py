"""The worker's loop. Only this thread touches the database; only other threads wait for engines."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar
from uuid import UUID

from django.db import InterfaceError, InternalError, OperationalError, connections, transaction
from django.utils import timezone

from .. import queue
from ..conf import AppSettings
from ..executors.base import Executor, ExitStatus, LaunchSpec, Phase, Rejected, Unavailable
from ..identifiers import uuid7
from ..models import Worker
from ..queue.wakeup import CANCELLED, READY
from .held import AttemptKey, HeldAttempt, Stage
from .launch import launch_key, launch_spec
from .maintenance import Maintenance
from .outcomes import closed, failed, outcome_of
from .output import CappedOutput
from .timers import Timer
from .wakeup import Listener

T = TypeVar("T")
_FLUSH_SECONDS = 0.5
_FIRST_POLL_SECONDS = 0.05
_DATABASE_RETRY_SECONDS = (0.05, 2.0)
# Twice the longest pause between two tries: by then every worker that lives has found the database again.
_OTHERS_RETURN_SECONDS = 4.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker takes on.

    ``slots``: how many attempts at once. ``queues``: None for all. ``drain``: end when nothing is due and nothing is
    held. ``max_jobs``: claim no more than that, then end. ``only``: run this one job and no other.
    """

    slots: int = 4
    queues: tuple[str, ...] | None = None
    drain: bool = False
    max_jobs: int | None = None
    only: UUID | None = None
    using: str = "default"


class WorkerLoop:
    """Runs jobs until it is told to stop.

    ``executors`` are the aliases it serves. `stop` may be called from a signal handler: once to finish what a local
    process cannot survive and leave containers to others, twice to end local processes now.
    """

    def __init__(self, *, settings: AppSettings, executors: Mapping[str, Executor], options: WorkerOptions) -> None:
        self.id = ""
        self._settings, self._executors, self._options = settings, dict(executors), options
        self._held: dict[AttemptKey, HeldAttempt] = {}
        self._wake = threading.Event()
        self._hints: SimpleQueue[str] = SimpleQueue()
        self._stops = 0
        self._claimed = 0
        self._launched: SimpleQueue[tuple[HeldAttempt, str | Exception]] = SimpleQueue()
        self._changed: dict[str, bool] = dict.fromkeys(self._executors, True)
        self._unavailable_since: dict[str, float] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._renew = Timer(settings.lease_seconds / 3)
        self._reconcile = Timer(settings.poll_seconds)
        self._maintain = Timer(settings.poll_seconds)
        self._rescue = Timer(0.0)
        self._maintenance = Maintenance(settings, using=options.using)
        # A queue that the settings do not know is not served by those who serve all.
        self._queues = options.queues if options.queues is not None else settings.queues
        self._renewed_at = time.monotonic()
        self._flush = Timer(_FLUSH_SECONDS)
        self._observe = Timer(settings.poll_seconds)
        self._poll = Timer(_FIRST_POLL_SECONDS)
        self._database_back = Timer(_DATABASE_RETRY_SECONDS[0])
        self._connection_prepared = False
        self._nothing_due = False
        self._ended = threading.Event()

    def stop(self) -> None:
        """Ask the loop to end; see the class."""
        self._stops += 1
        self._wake.set()

    def run(self) -> int:
        """Work until told to stop, or drained; return how many jobs were claimed."""
        registered = False
        try:
            registered = self._register_when_possible()
        finally:
            if not registered:
                for executor in self._executors.values():
                    executor.close()
        if not registered:
            return 0
        listener = Listener(self._options.using, self._hint)
        watchers = [self._watcher(alias) for alias in self._executors]
        self._with_database(self._beat)
        listener.start()
        for watcher in watchers:
            watcher.start()
        logger.info("Worker %s serves executors=%s slots=%s", self.id, list(self._executors), self._options.slots)
        try:
            while not self._is_done():
                self._wait()
                self._turn()
        finally:
            self._ended.set()
            for pool in self._pools.values():
                pool.shutdown()
            for executor in self._executors.values():
                executor.close()
            for watcher in watchers:
                watcher.join()
            listener.stop()
        self._with_database(lambda: queue.drop_lease(self.id, using=self._options.using))
        logger.info("Worker %s ended, jobs=%s", self.id, self._claimed)
        return self._claimed

    # -- one turn ------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._collect_launches()
        self._collect_exits()
        self._stop_overdue()
        if self._flush.is_due():
            self._read_outputs()
        self._with_database(self._talk_to_database)

    def _talk_to_database(self) -> None:
        if self._renew.is_due():
            self._beat()
        self._finish_and_claim()
        self._store_outputs()
        self._store_handles()
        if self._reconcile.is_due():
            self._compare_with_database()
        if self._maintain.is_due() and not self._stops:
            self._do_maintenance()

    def _wait(self) -> None:
        """Wait until something happened, or the next thing is due."""
        timers = [self._flush, self._observe] if self._held else []
        if self._database_is_away():
            timers.append(self._database_back)
        else:
            timers += [self._renew, self._reconcile, *([self._poll] if self._room() else [])]
        self._wake.wait(min(timer.left() for timer in timers))
        self._wake.clear()
        while not self._hints.empty():
            timer = {READY: self._poll, CANCELLED: self._reconcile}.get(self._hints.get())
            if timer is not None:
                timer.hurry()

    def _hint(self, hint: str) -> None:
        """Be told, by the listener's thread, that the database has something new."""
        self._hints.put(hint)
        self._wake.set()

    def _is_done(self) -> bool:
        if self._stops:
            for held in self._held.values():
                if self._stops > 1 and held.stopped_for is None and not held.executor.capabilities.survives_worker:
                    self._stop_attempt(held, "lost", grace=0.0)
            return all(h.executor.capabilities.survives_worker and h.outcome is None for h in self._held.values())
        if self._held:
            return False
        if self._options.max_jobs is not None and self._claimed >= self._options.max_jobs:
            return True
        return self._options.drain and self._nothing_due

    # -- the database --------------------------------------------------------------------------------------------

    def _with_database(self, work: Callable[[], T]) -> T | None:
        """Do something with the database; where it is away, keep everything and try again later."""
        if self._database_is_away() and not self._database_back.is_due():
            return None
        try:
            if not self._connection_prepared:
                self._prepare_connection()
            result = work()
        except (OperationalError, InterfaceError, InternalError) as error:
            first, last = _DATABASE_RETRY_SECONDS
            self._database_back = Timer(min(last, max(2 * first, self._database_back.seconds * 2)))
            self._database_back.is_due()
            logger.warning("The database did not answer, trying again in %s s: %s", self._database_back.seconds, error)
            connections[self._options.using].close()
            self._connection_prepared = False
            return None
        if self._database_is_away():
            self._database_back = Timer(_DATABASE_RETRY_SECONDS[0])
        return result

    def _prepare_connection(self) -> None:
        queue.limit_transactions(idle_seconds=self._settings.lease_seconds, using=self._options.using)
        self._connection_prepared = True

    def _database_is_away(self) -> bool:
        return self._database_back.seconds > _DATABASE_RETRY_SECONDS[0]

    def _register_when_possible(self) -> bool:
        """Register, and wait for a database that is away; False where the worker was stopped meanwhile.

        A worker that is to drain the queue has nothing to wait for: it raises. So does one whose database answers
        and refuses, for want of its tables, say.
        """
        while not self._stops:
            try:
                self._register()
            except (OperationalError, InterfaceError, InternalError) as error:
                connection = connections[self._options.using]
                answers = connection.connection is not None and connection.is_usable()
                if answers or self._options.drain:
                    raise
                connection.close()
                logger.warning("The database cannot be reached, the worker waits for it: %s", error)
                self._wake.wait(_DATABASE_RETRY_SECONDS[1])
            else:
                return True
        return False

    def _register(self) -> None:
        self.id = f"{socket.gethostname()[:24]}-{uuid7().hex}"
        row = Worker(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=list(self._queues or ()),
            executors=list(self._executors),
            slots=self._options.slots,
            lease_expires_at=timezone.now(),
        )
        queue.register_worker(row, lease_seconds=self._settings.lease_seconds, using=self._options.using)

    def _beat(self) -> None:
        # Should the database fail meanwhile, this is the first thing to do when it is back.
        self._renew.hurry()
        asked = time.monotonic()
        if not queue.renew_lease(self.id, lease_seconds=self._settings.lease_seconds, using=self._options.using):
            logger.error("Worker %s was taken for dead; it starts anew and drops its %s jobs", self.id, len(self._held))
            for held in list(self._held.values()):
                self._disown(held)
            self._register()
        if self._is_late():
            self._rescue.postpone(_OTHERS_RETURN_SECONDS)
        self._renewed_at = time.monotonic()
        # Only after the database has agreed: what cannot outlive its worker ends before its lease does.
        left = asked + self._settings.lease_seconds - time.monotonic()
        for executor in self._executors.values():
            executor.heartbeat(left)
        self._renew.is_due()

    def _is_late(self) -> bool:
        """Tell whether this worker was kept from the database for so long that it cannot judge others.

        What kept it may have kept them too: their leases have run out although they live.
        """
        return time.monotonic() - self._renewed_at > self._settings.lease_seconds / 2

    def _do_maintenance(self) -> None:
        using = self._options.using
        if self._rescue.is_due() and not self._is_late():
            adopted = queue.rescue(worker=self.id, executors=list(self._executors), using=using)
            if adopted:
                logger.warning("Worker %s took over %s attempts of dead workers", self.id, adopted)
                self._compare_with_database()
        if self._maintenance.run(self.id):
            self._poll.hurry()

    def _compare_with_database(self) -> None:
        """Find what was cancelled or taken from this worker, and what it was given."""
        owned = {(o.job.id, o.job.attempt): o for o in queue.owned_attempts(worker=self.id, using=self._options.using)}
        for key, held in list(self._held.items()):
            found = owned.pop(key, None)
            if found is None:
                self._disown(held)
            elif found.status != "running" and held.stopped_for is None:
                logger.info("Job %s is %s: its attempt is stopped", held.job.id, found.status)
                self._stop_attempt(held, "cancelled", grace=held.job.grace_seconds)
        for found in owned.values():
            self._adopt(found)

    def _finish_and_claim(self) -> None:
        """Store what has ended and take on what is due, in one transaction: its commit is what costs."""
        ended = [held for held in self._held.values() if held.outcome is not None]
        claiming = self._room(len(ended)) > 0 and self._poll.is_due()
        done: set[AttemptKey] = set()
        with transaction.atomic(using=self._options.using) if ended and claiming else nullcontext():
            if ended:
                done = self._finish(ended)
            limit = self._room(len(done)) if claiming else 0
            jobs = self._claim(limit) if limit else []
        # Only now, since all of it may have been rolled back.
        if ended:
            self._settle(ended, done)
        if claiming:
            self._take_on(jobs, limit)

    def _finish(self, ended: Sequence[HeldAttempt]) -> set[AttemptKey]:
        using = self._options.using
        queue.append_logs([entry for held in ended for entry in held.entries], worker=self.id, using=using)
        outcomes = [held.outcome for held in ended if held.outcome is not None]
        return queue.finish(outcomes, worker=self.id, using=using)

    def _settle(self, ended: Sequence[HeldAttempt], done: set[AttemptKey]) -> None:
        for held in ended:
            if held.id in done:
                self._let_go(held)
            else:
                held.entries = []
        if len(done) < len(ended):
            # Taken over, or cancelled this very moment: then the next finish closes the attempt alone.
            self._compare_with_database()

    def _claim(self, limit: int) -> list[queue.ClaimedJob]:
        return queue.claim(
            worker=self.id,
            executors=[alias for alias in self._executors if alias not in self._unavailable_since],
            queues=self._queues,
            only=self._options.only,
            limit=limit,
            using=self._options.using,
        )

    def _take_on(self, jobs: Sequence[queue.ClaimedJob], limit: int) -> None:
        self._claimed += len(jobs)
        for job in jobs:
            self._hold(job)
        if len(jobs) == limit:
            self._poll = Timer(0.0)
        else:
            self._nothing_due = not jobs
            # Poll less often while there is nothing to find.
            pause = _FIRST_POLL_SECONDS if jobs else min(self._settings.poll_seconds, self._poll.seconds * 2)
            self._poll = Timer(max(_FIRST_POLL_SECONDS, pause))
            self._poll.is_due()

    def _room(self, ending: int = 0) -> int:
        """Return how many jobs may be claimed once so many attempts have been let go."""
        if self._stops or len(self._unavailable_since) == len(self._executors):
            return 0
        room = self._options.slots - len(self._held) + ending
        if self._options.max_jobs is not None:
            room = min(room, self._options.max_jobs - self._claimed)
        return max(0, room)

    def _store_outputs(self) -> None:
        waiting = [held for held in self._held.values() if held.entries and held.outcome is None]
        if waiting:
            entries = [entry for held in waiting for entry in held.entries]
            queue.append_logs(entries, worker=self.id, using=self._options.using)
            for held in waiting:
                held.entries = []

    def _store_handles(self) -> None:
        """Note what engines call the attempts that outlive this worker: whoever adopts one need not start it again."""
        fresh = [
            held
            for held in self._held.values()
            if held.stage is Stage.RUNNING and not held.handle_stored and held.executor.capabilities.survives_worker
        ]
        if fresh:
            handles = [(held.id, held.handle) for held in fresh]
            queue.record_handles(handles, worker=self.id, using=self._options.using)
            for held in fresh:
                held.handle_stored = True

    # -- the engines ---------------------------------------------------------------------------------------------

    def _hold(self, job: queue.ClaimedJob) -> HeldAttempt:
        now = time.monotonic()
        held = HeldAttempt(
            job=job,
            executor=self._executors[job.executor],
            key=launch_key(job, self._settings),
            output=CappedOutput(self._settings.log_limit_bytes),
            deadline=None if job.timeout_seconds is None else now + job.timeout_seconds - job.elapsed_seconds,
            launch_until=now + self._settings.unreachable_seconds,
        )
        self._held[held.id] = held
        self._launch(held)
        return held

    def _adopt(self, found: queue.OwnedAttempt) -> None:
        """Take an attempt that another worker began (or this one, before the database forgot to answer)."""
        job = found.job
        if job.executor not in self._executors:
            outcome = failed(
                job, "lost", f"No live worker serves executor {job.executor!r}.", retry=self._settings.retry
            )
            outcome = outcome if found.status == "running" else closed(job, None)
            queue.finish([outcome], worker=self.id, using=self._options.using)
            return
        executor = self._executors[job.executor]
        held = HeldAttempt(
            job=job,
            executor=executor,
            key=launch_key(job, self._settings),
            output=CappedOutput(self._settings.log_limit_bytes),
            deadline=None
            if job.timeout_seconds is None
            else time.monotonic() + job.timeout_seconds - job.elapsed_seconds,
            launch_until=time.monotonic() + self._settings.unreachable_seconds,
            handle=found.handle or launch_key(job, self._settings),
            handle_stored=bool(found.handle),
            stage=Stage.RUNNING,
        )
        self._held[held.id] = held
        if found.status != "running":
            self._stop_attempt(held, "cancelled", grace=job.grace_seconds)
        elif not found.handle and (executor.capabilities.survives_worker or found.claimed_by == self.id):
            # Nobody knows whether it was started (starting is idempotent), or the answer to the claim was lost.
            held.stage = Stage.LAUNCHING
            self._launch(held)
        self._changed[job.executor] = True

    def _launch(self, held: HeldAttempt) -> None:
        try:
            spec = launch_spec(held.job, self._settings)
        except Exception as error:
            # Whatever it is, it is this job's: the next worker must not die of it too.
            self._note_launched(held, error)
            return
        threads = held.executor.capabilities.launch_threads
        if not threads:
            self._note_launched(held, _attempt(lambda: held.executor.submit(spec)))
            return
        pool = self._pool(held.job.executor, threads)
        future = pool.submit(_submit, held, spec)
        future.add_done_callback(lambda done: self._note_launch(held, done))

    def _note_launch(self, held: HeldAttempt, done: Future[str]) -> None:
        error = done.exception()
        self._note_launched(held, done.result() if error is None else _as_exception(error))

    def _note_launched(self, held: HeldAttempt, result: str | Exception) -> None:
        self._launched.put((held, result))
        if not self._wake.is_set():
            self._wake.set()

    def _collect_launches(self) -> None:
        while not self._launched.empty():
            held, result = self._launched.get()
            if held.stage is not Stage.LAUNCHING:
                continue
            if isinstance(result, str):
                held.handle, held.stage = result, Stage.RUNNING
                self._unavailable_since.pop(held.job.executor, None)
                self._changed[held.job.executor] = True
            if not held.mine:
                self._forget(held)
            elif isinstance(result, str):
                if held.stopped_for is not None:
                    held.executor.stop(held.handle, held.job.grace_seconds)
            elif isinstance(result, Unavailable) and time.monotonic() < held.launch_until:
                self._unavailable_since.setdefault(held.job.executor, time.monotonic())
                timer = threading.Timer(1.0, self._launch, [held])
                timer.daemon = True
                timer.start()
            else:
                self._end_unstarted(held, result)

    def _end_unstarted(self, held: HeldAttempt, error: Exception) -> None:
        if isinstance(error, Rejected):
            reason, message = error.reason, str(error)
        elif isinstance(error, Unavailable):
            reason, message = "lost", f"The engine could not be reached: {error}"
        else:
            logger.error("Executor %s failed to launch job=%s", held.job.executor, held.job.id, exc_info=error)
            reason, message = "start", f"The executor failed: {type(error).__name__}: {error}"
        held.stage = Stage.ENDED
        held.exit = ExitStatus(message=message)
        if held.stopped_for == "cancelled":
            held.outcome = closed(held.job, None, message)
        else:
            held.outcome = failed(held.job, reason, message, retry=self._settings.retry)

    def _collect_exits(self) -> None:
        every = self._observe.is_due()
        for alias, executor in self._executors.items():
            if not (every or self._changed[alias]):
                continue
            running = [
                held for held in self._held.values() if held.stage is Stage.RUNNING and held.job.executor == alias
            ]
            if not running and alias not in self._unavailable_since:
                continue
            self._changed[alias] = False
            try:
                observed = {o.key: o for o in executor.observe()}
            except Unavailable as error:
                self._note_unavailable(alias, running, error)
                continue
            self._unavailable_since.pop(alias, None)
            for held in running:
                observation = observed.get(held.key)
                if observation is None:
                    self._end(held, ExitStatus(lost=True, message="The engine no longer knows this attempt."))
                elif observation.phase is Phase.EXITED:
                    self._end(held, observation.exit or ExitStatus(lost=True))

    def _note_unavailable(self, alias: str, running: Iterable[HeldAttempt], error: Unavailable) -> None:
        since = self._unavailable_since.setdefault(alias, time.monotonic())
        if time.monotonic() - since < self._settings.unreachable_seconds:
            return
        for held in running:
            self._end(held, ExitStatus(lost=True, message=f"The engine could not be reached: {error}"))

    def _end(self, held: HeldAttempt, exit_status: ExitStatus) -> None:
        try:
            held.read_output(to_end=True)
        except Unavailable:
            logger.warning("The end of the output of job=%s attempt=%s could not be read", *held.id)
        held.stage, held.exit = Stage.ENDED, exit_status
        if not held.mine:
            self._forget(held)
        elif held.stopped_for == "cancelled":
            held.outcome = closed(held.job, exit_status, "Stopped: the job was cancelled.")
        else:
            held.outcome = outcome_of(held.job, exit_status, stopped_for=held.stopped_for, retry=self._settings.retry)

    def _stop_overdue(self) -> None:
        for held in self._held.values():
            if held.stage is Stage.RUNNING and held.is_overdue():
                self._stop_attempt(held, "timeout", grace=held.job.grace_seconds)

    def _stop_attempt(self, held: HeldAttempt, why: str, *, grace: float) -> None:
        held.stopped_for = why
        if held.stage is Stage.RUNNING:
            result = _attempt(lambda: held.executor.stop(held.handle, grace))
            if isinstance(result, Unavailable):
                held.stopped_for = None

    def _disown(self, held: HeldAttempt) -> None:
        """Drop an attempt that is no longer this worker's, and end what still runs of it here."""
        held.mine = False
        if held.stage is not Stage.LAUNCHING:
            self._forget(held)

    def _forget(self, held: HeldAttempt) -> None:
        self._held.pop(held.id, None)
        # A container may have been adopted by whoever took the job: it is that worker's to end.
        if held.handle and not held.executor.capabilities.survives_worker:
            self._remove(held)

    def _let_go(self, held: HeldAttempt) -> None:
        del self._held[held.id]
        if held.handle:
            self._remove(held)

    def _remove(self, held: HeldAttempt) -> None:
        threads = held.executor.capabilities.launch_threads
        if threads:
            self._pool(held.job.executor, threads).submit(_attempt, lambda: held.executor.remove(held.handle))
        else:
            _attempt(lambda: held.executor.remove(held.handle))

    def _read_outputs(self) -> None:
        for held in self._held.values():
            if held.stage is Stage.RUNNING:
                _attempt(held.read_output)

    def _pool(self, alias: str, threads: int) -> ThreadPoolExecutor:
        if alias not in self._pools:
            self._pools[alias] = ThreadPoolExecutor(threads, thread_name_prefix=f"container-manager-{alias}")
        return self._pools[alias]

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
                    self._wake.set()

        return threading.Thread(target=watch, name=f"container-manager-watch-{alias}", daemon=True)


def _submit(held: HeldAttempt, spec: LaunchSpec) -> str:
    """Start an attempt, in a launch thread, unless it was taken from this worker while it waited for that thread."""
    if not held.mine:
        raise Unavailable("The job is another worker's by now.")
    return held.executor.submit(spec)


def _attempt(work: Callable[[], T]) -> T | Exception:
    """Return a result, or the executor's error as a value."""
    try:
        return work()
    except Unavailable as error:
        return error
    except Exception as error:
        logger.exception("An executor failed")
        return error


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))

"""The worker's loop: what to ask of the database and of engines, and when. Only its thread decides; others wait."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from uuid import UUID

from .. import store
from ..conf import AppSettings
from ..executors.base import Executor
from ..store.notifications import CANCELLED, READY, Listener
from .claims import Claims
from .database import AWAY, LAST_RETRY_SECONDS, Database, answers
from .engines import Engines
from .finisher import Finisher
from .heartbeat import Heartbeat
from .maintenance import Maintenance
from .outcomes import closed, failed
from .run import Stage
from .runs import Runs
from .timers import Timer

_FIRST_POLL_SECONDS = 0.05
# After an outage of our own wait twice the maximum backoff before rescuing: others were probably cut off too.
_OTHERS_RETURN_SECONDS = 2 * LAST_RETRY_SECONDS
_SWEEP_SECONDS = 30.0
# A hint that is not from the database: an engine or another thread of this worker has news.
_NEWS = ""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker claims, and when it ends by itself.

    ``slots``: how many attempts at once. ``queues``: None for all. ``drain``: end when nothing runs and nothing is due,
    except for engines that are given up. ``max_jobs``: end after this many claims. ``only``: run this one job; end if
    its engine is given up.
    """

    slots: int = 4
    queues: tuple[str, ...] | None = None
    drain: bool = False
    max_jobs: int | None = None
    only: UUID | None = None
    using: str = "default"


class WorkerLoop:
    """Runs jobs until it is told to stop, or ends by itself (see `WorkerOptions`).

    ``executors``: by the aliases that it serves. `stop` may be called from a signal handler: once to claim no more, to
    wait for local processes and leave containers to other workers; twice to kill local processes now.
    """

    def __init__(self, *, settings: AppSettings, executors: Mapping[str, Executor], options: WorkerOptions) -> None:
        self._settings, self._options = settings, options
        self._hints: SimpleQueue[str] = SimpleQueue()
        self._stops = self._noted_stops = 0
        self._claimed = 0
        self._nothing_due = False
        self._gave_up: list[str] = []
        self._unguarded: list[str] = []
        # A worker of all queues serves those of the settings only, if they name any.
        self._queues = options.queues if options.queues is not None else settings.queues
        self._database = Database(options.using, idle_seconds=settings.lease_seconds)
        self._engines = Engines(executors, settings)
        self._runs = Runs(self._engines, settings, self._awaken)
        self._heartbeat = Heartbeat(settings, queues=self._queues, executors=list(executors), slots=options.slots)
        self._finisher = Finisher(Database(options.using, idle_seconds=settings.lease_seconds), self._awaken)
        self._claims = Claims(
            queues=self._queues, only=options.only, using=options.using, look_seconds=settings.poll_seconds
        )
        self._maintenance = Maintenance(settings, using=options.using)
        self._renew = Timer(settings.lease_seconds / 3)
        self._reconcile = Timer(settings.poll_seconds)
        self._maintain = Timer(settings.poll_seconds)
        self._rescue = Timer(0.0)
        self._sweep = Timer(_SWEEP_SECONDS)
        self._verify = Timer(2 * settings.lease_seconds)
        self._poll = Timer(_FIRST_POLL_SECONDS)

    @property
    def id(self) -> str:
        """The worker's id; "" before it is registered, a new one after its lease was revoked."""
        return self._heartbeat.worker

    @property
    def gave_up(self) -> list[str]:
        """The executors whose engines were given up although jobs are due for them, if the worker ends by itself."""
        return self._gave_up

    @property
    def unguarded(self) -> list[str]:
        """The triggers for lack of which the worker did not start, or ended."""
        return self._unguarded

    def stop(self) -> None:
        """Ask the loop to end; see the class."""
        self._stops += 1
        self._hints.put(_NEWS)

    def run(self) -> int:
        """Work until told to stop, or drained; return how many jobs were claimed."""
        listener = Listener(self._options.using, self._hints.put)
        # Objects loaded so far stay alive: the collector need not scan them again and again.
        gc.freeze()
        try:
            if not self._register():
                return 0
            self._database.attempt(self._beat)
            listener.start()
            self._engines.start(self._runs.note_change)
            self._finisher.start()
            aliases, slots = self._engines.aliases, self._options.slots
            logger.info("Worker %s serves executors=%s slots=%s", self.id, aliases, slots)
            while True:
                self._heed_stops()
                if self._is_done():
                    break
                self._wait()
                self._turn()
        finally:
            self._engines.close()
            self._runs.close()
            listener.stop()
            self._finisher.close()
            gc.unfreeze()
            if self.id:
                # After an error too: others then need not wait for the lease to expire.
                self._database.attempt(lambda: store.drop_lease(self.id, using=self._options.using))
        logger.info("Worker %s ended, jobs=%s", self.id, self._claimed)
        return self._claimed

    def _turn(self) -> None:
        self._runs.turn()
        if self._engines.take_came_back():
            self._sweep.hurry()
            self._poll.hurry()
        self._database.attempt(self._talk_to_database)

    def _talk_to_database(self) -> None:
        if self._renew.take_due():
            self._beat()
        self._settle()
        self._finish()
        self._claim()
        self._store_outputs()
        self._store_handles()
        if self._reconcile.take_due() and self._runs:
            self._compare_with_database()
        if self._maintain.take_due() and not self._stops:
            self._do_maintenance()

    def _wait(self) -> None:
        """Wait for a hint, or until the next timer is due."""
        timers = self._runs.timers
        if self._database.is_away:
            timers.append(self._database.back)
        else:
            timers += [self._renew, self._reconcile, *([self._poll] if self._room() else [])]
        for hint in self._news(min([timer.left() for timer in timers])):
            if hint == READY:
                self._poll.hurry()
            elif hint == CANCELLED:
                self._reconcile.hurry()

    def _news(self, seconds: float) -> set[str]:
        """Return the hints that have come, once there is one; none if none comes within this time."""
        try:
            news = {self._hints.get(timeout=seconds)}
        except Empty:
            return set()
        while not self._hints.empty():
            news.add(self._hints.get())
        return news

    def _awaken(self) -> None:
        """End the wait; called by any thread that has news."""
        if self._hints.empty():
            self._hints.put(_NEWS)

    def _is_done(self) -> bool:
        if self._noted_stops:
            return all(run.executor.capabilities.survives_worker and run.outcome is None for run in self._runs)
        if self._runs:
            return False
        if self._options.only is not None and self._gave_up:
            return True
        if self._options.max_jobs is not None and self._claimed >= self._options.max_jobs:
            return True
        return self._options.drain and self._nothing_due

    def _heed_stops(self) -> None:
        """Log that the worker was told to stop; told twice, stop what does not survive it.

        Two signals at once may arrive as one: who sends two waits for the log line between them.
        """
        if self._noted_stops != self._stops:
            self._noted_stops = self._stops
            logger.info("Worker %s was told to stop, with jobs=%s at work", self.id, len(self._runs))
        if self._noted_stops > 1:
            for run in self._runs:
                if run.stopped_for is None and not run.executor.capabilities.survives_worker:
                    self._runs.stop(run, "lost", grace=0.0)

    # -- the lease -----------------------------------------------------------------------------------------------

    def _register(self) -> bool:
        """Register, once the database is available; return False if stopped meanwhile, or if triggers are missing.

        Raises what the database raises if the worker is to drain the queue, or if the database is available and
        refuses, for example because its tables are missing.
        """
        while not self._stops:
            try:
                self._unguarded = store.missing_triggers(using=self._options.using, changed=True)
                if self._unguarded:
                    return False
                self._verify.restart()
                self._heartbeat.register(self._options.using)
            except AWAY as error:
                if answers(self._options.using) or self._options.drain:
                    raise
                self._database.close()
                logger.warning("The database cannot be reached, the worker waits for it: %s", error)
                self._news(LAST_RETRY_SECONDS)
            else:
                return True
        return False

    def _beat(self) -> None:
        """Renew the lease; if it was revoked, abandon all attempts and register again."""
        # If the database fails here, this is the first thing to do when it is back.
        self._renew.hurry()
        was_late = self._heartbeat.is_late()
        asked = time.monotonic()
        if not self._heartbeat.renew(self._options.using):
            runs = list(self._runs)
            logger.error("Worker %s was taken for dead; it starts anew and drops its %s jobs", self.id, len(runs))
            for run in runs:
                self._runs.abandon(run)
            self._heartbeat.register(self._options.using)
        if was_late:
            self._rescue.postpone(_OTHERS_RETURN_SECONDS)
        # Counted from before the renewal: what does not survive its worker must end before the lease expires.
        self._engines.heartbeat(asked + self._settings.lease_seconds - time.monotonic())
        self._renew.restart()

    def _do_maintenance(self) -> None:
        using = self._options.using
        if self._verify.take_due():
            self._verify_triggers()
        found = store.look(worker=self.id, executors=self._engines.reachable, queues=self._queues, using=using)
        if found.due:
            self._poll.hurry()
        if found.owns and not self._runs:
            # A claim or a rescue that was committed although its answer was lost.
            self._compare_with_database()
        if found.orphaned and self._rescue.take_due() and not self._heartbeat.is_late():
            adopted = store.rescue(worker=self.id, executors=self._engines.aliases, using=using)
            if adopted:
                logger.warning("Worker %s took over %s attempts of dead workers", self.id, adopted)
                self._compare_with_database()
        if self._sweep.take_due():
            self._sweep_engines()
        if found.maintains and self._maintenance.run(self.id, retries_are_due=found.retries):
            self._poll.hurry()

    def _verify_triggers(self) -> None:
        """Stop if triggers are gone; those that merely differ may be of a newer release that was just migrated."""
        self._unguarded = store.missing_triggers(using=self._options.using)
        if self._unguarded:
            logger.error("Worker %s stops: triggers are missing: %s", self.id, ", ".join(self._unguarded))
            self.stop()

    def _sweep_engines(self) -> None:
        """Remove orphans from engines: attempts that are over, whose workers died before they removed them, say."""
        for alias, attempts in self._runs.unknown_attempts().items():
            if attempts:
                orphans = store.attempts_over(attempts, using=self._options.using)
                for key, failed in orphans.items():
                    self._runs.remove_from_engine(alias, attempts[key], failed=failed)

    def _compare_with_database(self) -> None:
        """Stop attempts whose jobs were cancelled, abandon those that were lost, adopt those that were rescued."""
        owned = {(o.job.id, o.job.attempt): o for o in store.owned_attempts(worker=self.id, using=self._options.using)}
        # These are settled when the finisher is done with them.
        storing = {run.id for run in self._finisher.batch}
        for run in list(self._runs):
            if run.id in storing:
                continue
            found = owned.pop(run.id, None)
            if found is None:
                self._runs.abandon(run)
            elif found.status != "running" and run.stopped_for is None:
                logger.info("Job %s is %s: its attempt is stopped", run.job.id, found.status)
                self._runs.stop(run, "cancelled", grace=run.job.spec.grace_seconds)
        for key in owned.keys() - storing:
            self._adopt(owned[key])

    def _adopt(self, found: store.OwnedAttempt) -> None:
        job = found.job
        if job.spec.executor in self._engines.aliases:
            self._runs.adopt(found, by=self.id)
            return
        message = f"No live worker serves executor {job.spec.executor!r}."
        lost = failed(job, "lost", message, retry=self._settings.retry)
        store.finish(
            [lost if found.status == "running" else closed(job, None)], worker=self.id, using=self._options.using
        )

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Remove the attempts whose end is stored."""
        batch, done = self._finisher.take()
        for run in batch:
            if run.id in done:
                self._runs.remove(run)
            else:
                run.log_changes = []
        if len(done) < len(batch):
            # The others were rescued by another worker, or cancelled just now: then the next finish closes the attempt
            # only.
            self._compare_with_database()

    def _finish(self) -> None:
        if self._finisher.batch:
            return
        if ended := [run for run in self._runs if run.outcome is not None]:
            self._finisher.give(ended, worker=self.id)

    def _claim(self) -> None:
        room = self._room()
        if not room or not self._poll.take_due():
            return
        jobs = self._claims.take(worker=self.id, executors=self._engines.reachable, room=room)
        self._claimed += len(jobs)
        for job in jobs:
            self._runs.take_on(job)
        self._plan_next_claim(len(jobs), room)

    def _plan_next_claim(self, found: int, room: int) -> None:
        if found == room or self._claims.find_more():
            self._poll = Timer(0.0)
            return
        self._note_due_elsewhere(found)
        # Poll less often while there is nothing to find; in the end only when the look for anything to do says so.
        pause = max(_FIRST_POLL_SECONDS, 0.0 if found else self._poll.seconds * 2)
        self._poll = Timer(min(pause, max(_FIRST_POLL_SECONDS, self._settings.poll_seconds)))
        # A worker that ends by itself goes on asking: what is due may be for an engine that is given up by now.
        idle = pause >= self._settings.poll_seconds and not (self._options.drain or self._options.only)
        self._poll.postpone(math.inf if idle else self._poll.seconds)

    def _note_due_elsewhere(self, found: int) -> None:
        """Note whether a worker that ends by itself may end: nothing is due, except for engines that are given up."""
        self._nothing_due = False
        if not found and (self._options.drain or self._options.only):
            self._gave_up = [alias for alias in self._engines.given_up if self._is_due(alias)]
            self._nothing_due = not any(self._is_due(alias) for alias in self._engines.away)

    def _is_due(self, alias: str) -> bool:
        return store.is_due(executors=[alias], queues=self._queues, only=self._options.only, using=self._options.using)

    def _room(self) -> int:
        """Return how many jobs may be claimed now.

        An attempt whose end is being stored needs no slot. If the database is slow, at most as many attempts as there
        are slots wait for it.
        """
        if self._stops:
            return 0
        held, storing, slots = len(self._runs), len(self._finisher.batch), self._options.slots
        room = min(slots - (held - storing), 2 * slots - held)
        if self._options.max_jobs is not None:
            room = min(room, self._options.max_jobs - self._claimed)
        return max(0, room)

    def _store_outputs(self) -> None:
        waiting = [run for run in self._runs if run.log_changes and run.outcome is None]
        if waiting:
            changes = [change for run in waiting for change in run.log_changes]
            store.store_logs(changes, worker=self.id, using=self._options.using)
            for run in waiting:
                run.log_changes = []

    def _store_handles(self) -> None:
        """Store the handles of attempts that survive this worker: who adopts one then need not launch it again."""
        fresh = [
            run
            for run in self._runs
            if run.stage is Stage.RUNNING and not run.handle_stored and run.executor.capabilities.survives_worker
        ]
        if fresh:
            handles = [(run.id, run.handle) for run in fresh]
            store.record_handles(handles, worker=self.id, using=self._options.using)
            for run in fresh:
                run.handle_stored = True

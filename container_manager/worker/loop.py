"""The worker's loop: what is asked of the database, and when. Only this thread decides; others wait for engines."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from uuid import UUID

from .. import store
from ..conf import AppSettings
from ..executors.base import Executor
from ..store.notifications import CANCELLED, READY, Listener
from .database import AWAY, LAST_RETRY_SECONDS, Database
from .engines import Engines
from .finisher import Finisher
from .heartbeat import Heartbeat
from .maintenance import Maintenance
from .outcomes import closed, failed
from .runs import Stage
from .timers import Timer

_FIRST_POLL_SECONDS = 0.05
# Longer than two pauses between two tries: by then every worker that lives has found the database again.
_OTHERS_RETURN_SECONDS = 4.0
_SWEEP_SECONDS = 30.0
# Not from the database: an engine or another thread of this worker has something.
_NEWS = ""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker takes on.

    ``slots``: how many attempts at once. ``queues``: None for all. ``drain``: end when nothing is held, and nothing is
    due but for engines that have not answered for so long that their attempts are lost. ``max_jobs``: claim no more
    than that, then end. ``only``: run this one job and no other; end if its engine does not answer for so long.
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
        self._settings, self._options = settings, options
        self._hints: SimpleQueue[str] = SimpleQueue()
        self._stops = self._noted_stops = 0
        self._claimed = 0
        self._nothing_due = False
        self._gave_up: list[str] = []
        # A queue that the settings do not know is not served by those who serve all.
        self._queues = options.queues if options.queues is not None else settings.queues
        self._database = Database(options.using, idle_seconds=settings.lease_seconds)
        self._engines = Engines(executors, settings, self._awaken)
        self._lease = Heartbeat(settings, queues=self._queues, executors=list(executors), slots=options.slots)
        self._finisher = Finisher(Database(options.using, idle_seconds=settings.lease_seconds), self._awaken)
        self._maintenance = Maintenance(settings, using=options.using)
        self._renew = Timer(settings.lease_seconds / 3)
        self._reconcile = Timer(settings.poll_seconds)
        self._maintain = Timer(settings.poll_seconds)
        self._rescue = Timer(0.0)
        self._sweep = Timer(_SWEEP_SECONDS)
        self._poll = Timer(_FIRST_POLL_SECONDS)

    @property
    def id(self) -> str:
        """The worker's id; "" before it is registered, another one after it was taken for dead."""
        return self._lease.worker

    @property
    def gave_up(self) -> list[str]:
        """The executors that it was to end without, although jobs are due for them: their engines do not answer."""
        return self._gave_up

    def stop(self) -> None:
        """Ask the loop to end; see the class."""
        self._stops += 1
        self._hints.put(_NEWS)

    def run(self) -> int:
        """Work until told to stop, or drained; return how many jobs were claimed."""
        listener = Listener(self._options.using, self._hints.put)
        # What was loaded so far stays, and need not be looked through for garbage again and again.
        gc.freeze()
        try:
            if not self._register():
                return 0
            self._database.attempt(self._beat)
            listener.start()
            self._engines.start()
            self._finisher.start()
            aliases, slots = self._engines.aliases, self._options.slots
            logger.info("Worker %s serves executors=%s slots=%s", self.id, aliases, slots)
            while not self._is_done():
                self._wait()
                self._turn()
        finally:
            self._engines.close()
            listener.stop()
            self._finisher.close()
            gc.unfreeze()
        self._database.attempt(lambda: store.drop_lease(self.id, using=self._options.using))
        logger.info("Worker %s ended, jobs=%s", self.id, self._claimed)
        return self._claimed

    def _turn(self) -> None:
        self._engines.turn()
        if self._engines.take_came_back():
            self._sweep.hurry()
            self._poll.hurry()
        self._database.attempt(self._talk_to_database)

    def _talk_to_database(self) -> None:
        if self._renew.is_due():
            self._beat()
        self._settle()
        self._finish()
        self._claim()
        self._store_outputs()
        self._store_handles()
        if self._reconcile.is_due():
            self._compare_with_database()
        if self._maintain.is_due() and not self._stops:
            self._do_maintenance()

    def _wait(self) -> None:
        """Wait until something happened, or the next thing is due."""
        timers = self._engines.timers
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
        """Return what others have told, once there is something; nothing where nobody did within this time."""
        try:
            news = {self._hints.get(timeout=seconds)}
        except Empty:
            return set()
        while not self._hints.empty():
            news.add(self._hints.get())
        return news

    def _awaken(self) -> None:
        """Be told, by any thread, that something has happened."""
        if self._hints.empty():
            self._hints.put(_NEWS)

    def _is_done(self) -> bool:
        held = self._engines.held.values()
        if self._stops:
            self._note_stop()
            for each in held:
                if self._stops > 1 and each.stopped_for is None and not each.executor.capabilities.survives_worker:
                    self._engines.stop(each, "lost", grace=0.0)
            return all(each.executor.capabilities.survives_worker and each.outcome is None for each in held)
        if held:
            return False
        if self._options.only is not None and self._gave_up:
            return True
        if self._options.max_jobs is not None and self._claimed >= self._options.max_jobs:
            return True
        return self._options.drain and self._nothing_due

    def _note_stop(self) -> None:
        """Say that it was told to stop; two signals at once count as one, so whoever sends two may wait for that."""
        if self._noted_stops != self._stops:
            self._noted_stops = self._stops
            logger.info("Worker %s was told to stop, with jobs=%s at work", self.id, len(self._engines.held))

    # -- the lease -----------------------------------------------------------------------------------------------

    def _register(self) -> bool:
        """Register, and wait for a database that is away; False where the worker was stopped meanwhile.

        A worker that is to drain the queue has nothing to wait for: it raises. So does one whose database answers
        and refuses, for want of its tables, say.
        """
        while not self._stops:
            try:
                self._lease.register(self._options.using)
            except AWAY as error:
                if self._database.answers() or self._options.drain:
                    raise
                self._database.close()
                logger.warning("The database cannot be reached, the worker waits for it: %s", error)
                self._news(LAST_RETRY_SECONDS)
            else:
                return True
        return False

    def _beat(self) -> None:
        # Should the database fail meanwhile, this is the first thing to do when it is back.
        self._renew.hurry()
        was_late = self._lease.is_late()
        asked = time.monotonic()
        if not self._lease.renew(self._options.using):
            held = list(self._engines.held.values())
            logger.error("Worker %s was taken for dead; it starts anew and drops its %s jobs", self.id, len(held))
            for each in held:
                self._engines.disown(each)
            self._lease.register(self._options.using)
        if was_late:
            self._rescue.postpone(_OTHERS_RETURN_SECONDS)
        # Only after the database has agreed: what cannot outlive its worker ends before its lease does.
        self._engines.heartbeat(asked + self._settings.lease_seconds - time.monotonic())
        self._renew.is_due()

    def _do_maintenance(self) -> None:
        using = self._options.using
        if self._rescue.is_due() and not self._lease.is_late():
            adopted = store.rescue(worker=self.id, executors=self._engines.aliases, using=using)
            if adopted:
                logger.warning("Worker %s took over %s attempts of dead workers", self.id, adopted)
                self._compare_with_database()
        if self._sweep.is_due():
            self._sweep_engines()
        if self._maintenance.run(self.id):
            self._poll.hurry()

    def _sweep_engines(self) -> None:
        """Remove what engines still hold of attempts that are over: of workers that died before they did, say."""
        for alias, attempts in self._engines.orphans().items():
            if attempts:
                closed = store.attempts_over(attempts, using=self._options.using)
                for key, failed in closed.items():
                    self._engines.remove_orphan(alias, attempts[key], failed=failed)

    def _compare_with_database(self) -> None:
        """Find what was cancelled or taken from this worker, and what it was given."""
        owned = {(o.job.id, o.job.attempt): o for o in store.owned_attempts(worker=self.id, using=self._options.using)}
        # What becomes of these is known when the batch is taken back.
        storing = {held.id for held in self._finisher.batch}
        for held in list(self._engines.held.values()):
            if held.id in storing:
                continue
            found = owned.pop(held.id, None)
            if found is None:
                self._engines.disown(held)
            elif found.status != "running" and held.stopped_for is None:
                logger.info("Job %s is %s: its attempt is stopped", held.job.id, found.status)
                self._engines.stop(held, "cancelled", grace=held.job.spec.grace_seconds)
        for key in owned.keys() - storing:
            self._adopt(owned[key])

    def _adopt(self, found: store.OwnedAttempt) -> None:
        job = found.job
        if job.spec.executor in self._engines.aliases:
            self._engines.adopt(found, by=self.id)
            return
        message = f"No live worker serves executor {job.spec.executor!r}."
        lost = failed(job, "lost", message, retry=self._settings.retry)
        store.finish(
            [lost if found.status == "running" else closed(job, None)], worker=self.id, using=self._options.using
        )

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let go of the attempts whose end is stored."""
        batch, done = self._finisher.take()
        for held in batch:
            if held.id in done:
                self._engines.let_go(held)
            else:
                held.log_changes = []
        if len(done) < len(batch):
            # Taken over, or cancelled this very moment: then the next finish closes the attempt alone.
            self._compare_with_database()

    def _finish(self) -> None:
        if self._finisher.batch:
            return
        if ended := [held for held in self._engines.held.values() if held.outcome is not None]:
            self._finisher.give(ended, worker=self.id)

    def _claim(self) -> None:
        room = self._room()
        if not room or not self._poll.is_due():
            return
        jobs = store.claim(
            worker=self.id,
            executors=self._engines.reachable,
            queues=self._queues,
            only=self._options.only,
            limit=room,
            using=self._options.using,
        )
        self._claimed += len(jobs)
        for job in jobs:
            self._engines.take_on(job)
        self._plan_next_claim(len(jobs), room)

    def _plan_next_claim(self, found: int, room: int) -> None:
        if found == room:
            self._poll = Timer(0.0)
            return
        self._nothing_due = not found and not self._waits_for_engines()
        # Poll less often while there is nothing to find.
        pause = _FIRST_POLL_SECONDS if found else min(self._settings.poll_seconds, self._poll.seconds * 2)
        self._poll = Timer(max(_FIRST_POLL_SECONDS, pause))
        self._poll.is_due()

    def _waits_for_engines(self) -> bool:
        """Tell whether a worker that ends by itself must wait: what is due is for engines that may yet answer."""
        if not (self._options.drain or self._options.only):
            return False
        self._gave_up = [alias for alias in self._engines.given_up if self._is_due(alias)]
        return any(self._is_due(alias) for alias in self._engines.away)

    def _is_due(self, alias: str) -> bool:
        return store.is_due(executors=[alias], queues=self._queues, only=self._options.only, using=self._options.using)

    def _room(self) -> int:
        """Return how many jobs may be claimed.

        An attempt that is being stored needs no slot any more; should the database be slow, no more than as many
        attempts again as there are slots wait for it.
        """
        if self._stops:
            return 0
        held, storing, slots = len(self._engines.held), len(self._finisher.batch), self._options.slots
        room = min(slots - (held - storing), 2 * slots - held)
        if self._options.max_jobs is not None:
            room = min(room, self._options.max_jobs - self._claimed)
        return max(0, room)

    def _store_outputs(self) -> None:
        waiting = [held for held in self._engines.held.values() if held.log_changes and held.outcome is None]
        if waiting:
            changes = [change for held in waiting for change in held.log_changes]
            store.store_logs(changes, worker=self.id, using=self._options.using)
            for held in waiting:
                held.log_changes = []

    def _store_handles(self) -> None:
        """Note what engines call the attempts that outlive this worker: whoever adopts one need not start it again."""
        fresh = [
            held
            for held in self._engines.held.values()
            if held.stage is Stage.RUNNING and not held.handle_stored and held.executor.capabilities.survives_worker
        ]
        if fresh:
            handles = [(held.id, held.handle) for held in fresh]
            store.record_handles(handles, worker=self.id, using=self._options.using)
            for held in fresh:
                held.handle_stored = True

"""The worker's loop: what to ask of the database and of engines, and when. Only its thread decides; others wait."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from contextlib import nullcontext
from uuid import UUID

from .. import store
from ..conf import AppSettings
from ..executors.base import Executor
from ..jobs.package_log import package_logger
from ..statemachine.announcements import sent_by
from ..store.notifications import CANCELLED, READY, Listener
from .claims import Claims
from .comparison import Comparison
from .dashboard_notifier import DashboardNotifier
from .database import AWAY, LAST_RETRY_SECONDS, Database, Watchdog
from .engine_record import EngineRecord
from .engines import Engines
from .finisher import Finisher
from .heartbeat import Heartbeat
from .hints import Hints
from .maintenance import Maintenance
from .orphan_sweep import OrphanSweep
from .receivers import Receivers
from .reports import Reports
from .rescuer import Rescuer
from .runs import Runs
from .threads import supervised
from .timers import Timer
from .worker_options import WorkerOptions

# How long a worker that is told to stop twice goes on if it cannot store the ends of its jobs.
_LEAVE_SECONDS = 10.0
logger = package_logger(__name__)


class ThreadFailed(Exception):
    """A thread of this worker, or of its executors, has ended by an error."""


class WorkerLoop:
    """Runs jobs until it is told to stop, or ends by itself (see `WorkerOptions`).

    ``executors``: by the aliases that it serves. `stop` may be called from a signal handler: once to claim no more, to
    wait for local processes and leave containers to other workers; twice to kill local processes now.
    """

    def __init__(self, *, settings: AppSettings, executors: Mapping[str, Executor], options: WorkerOptions) -> None:
        self._settings, self._options, using = settings, options, options.using
        self._hints = Hints()
        self._stops = self._noted_stops = 0
        self._leave_at: float | None = None
        self._left: list[UUID] = []
        self._failed_threads: list[str] = []
        self._unguarded: list[str] = []
        # A worker of all queues serves those of the settings only, if they name any.
        self._queues = options.queues if options.queues is not None else settings.queues
        self._database, finishers, heartbeats = (
            Database(using, lease_seconds=settings.lease_seconds, inline=options.inline) for _ in range(3)
        )
        self._watchdog = Watchdog((self._database, finishers, heartbeats), lease_seconds=settings.lease_seconds)
        self._engines = Engines(executors, settings)
        self._runs = Runs(self._engines, settings, self._hints.awaken)
        self._heartbeat = Heartbeat(
            heartbeats,
            settings,
            queues=self._queues,
            executors=list(executors),
            slots=options.slots,
            all_survive=all(executor.capabilities.survives_worker for executor in executors.values()),
            renewed=self._engines.heartbeat,
            wake=self._hints.awaken,
        )
        self._finisher = Finisher(finishers, self._hints.awaken)
        self._receivers = Receivers()
        self._dashboards = DashboardNotifier(using=using)
        self._reports = Reports(self._runs, self._finisher, self._dashboards, retry=settings.retry, using=using)
        self._comparison = Comparison(self._runs, self._reports, settings, using=using)
        self._claims = Claims(
            self._engines,
            self._runs,
            self._reports,
            self._dashboards,
            options=options,
            queues=self._queues,
            poll_seconds=settings.poll_seconds,
            may_claim=self._may_claim,
        )
        self._engine_record = EngineRecord(self._engines, using=using)
        self._rescuer = Rescuer(settings, using=using, may_rescue=self._heartbeat.may_rescue)
        self._sweep = OrphanSweep(self._runs, using=using)
        self._maintenance = Maintenance(settings, using=using)
        self._reconcile = Timer(settings.poll_seconds)
        self._maintain = Timer(settings.poll_seconds)
        self._verify = Timer(2 * settings.lease_seconds)

    @property
    def id(self) -> str:
        """The worker's id; "" before it is registered, a new one after its lease was revoked."""
        return self._heartbeat.worker

    @property
    def gave_up(self) -> list[str]:
        """The executors whose engines were given up although jobs are due for them, if the worker ends by itself."""
        return self._claims.gave_up

    @property
    def unclaimable(self) -> set[UUID]:
        """The jobs that its last claim left queued, since the database refuses their claim."""
        return self._claims.left_queued

    @property
    def unguarded(self) -> list[str]:
        """The triggers for lack of which the worker did not start, or ended."""
        return self._unguarded

    @property
    def left(self) -> list[UUID]:
        """The jobs whose ends the worker knew, or forced, and could not store before it was told to stop twice."""
        return self._left

    def stop(self) -> None:
        """Ask the loop to end; see the class."""
        self._stops += 1
        self._hints.put()

    def run(self) -> int:
        """Work until told to stop, or drained; return how many jobs were claimed.

        Raises ThreadFailed where a thread that it needs has ended by an error.
        """
        # Inline, receivers are called as in the caller's context: at once.
        sent = nullcontext() if self._options.inline else sent_by(self._receivers.send)
        with supervised(self._note_failed_thread), sent:
            return self._run()

    def _run(self) -> int:
        listener = Listener(self._options.using, self._hints.put, answer_seconds=self._settings.lease_seconds / 3)
        # Objects loaded so far stay alive: the collector need not scan them again and again. If the program that the
        # worker is a part of has seen to that, it stays so afterwards.
        freezes = not gc.get_freeze_count()
        if freezes:
            gc.freeze()
        self._watchdog.start()
        try:
            if not self._register():
                return 0
            self._heartbeat.start(in_own_thread=not self._database.is_callers)
            if not self._database.is_callers:
                listener.start()
            self._engines.start(self._runs.note_change)
            self._finisher.start()
            aliases, slots = self._engines.aliases, self._options.slots
            logger.info("Worker %s serves executors=%s slots=%s", self.id, aliases, slots)
            while True:
                self._heartbeat.note_turn()
                if self._options.alive_file is not None:
                    self._options.alive_file.touch()
                if self._failed_threads:
                    raise ThreadFailed(f"The thread {self._failed_threads[0]} has ended by an error; see the log.")
                self._take_stops()
                if self._is_done():
                    break
                self._wait()
                self._turn()
        finally:
            self._engines.close()
            self._runs.close()
            listener.stop()
            if self._leave_at is not None:
                self._watchdog.end_all()
            self._finisher.close()
            self._heartbeat.close()
            if freezes:
                gc.unfreeze()
            if self._options.alive_file is not None:
                self._options.alive_file.unlink(missing_ok=True)
            self._note_left()
            if self.id:
                self._drop_lease()
            self._database.end()
            self._watchdog.close()
            self._receivers.close()
        logger.info("Worker %s ended, jobs=%s", self.id, self._claims.count)
        return self._claims.count

    def _turn(self) -> None:
        self._runs.turn()
        if self._engines.take_came_back():
            self._sweep.hurry()
            self._claims.hurry()
        self._database.attempt(self._talk_to_database)

    def _talk_to_database(self) -> None:
        if self._database.is_callers:
            self._heartbeat.renew_if_due()
        if self._heartbeat.is_revoked:
            self._register_again()
        worker = self.id
        if not self._reports.settle():
            # Some may have been rescued by another worker, or cancelled just now: then the next finish closes the
            # attempt only. That would be noticed later too; to look at once saves the time until then.
            self._comparison.compare(worker)
        self._reports.finish(worker)
        self._claims.claim(worker)
        self._reports.store_news(worker)
        if self._reconcile.take_due() and self._runs:
            self._comparison.compare(worker)
        self._engine_record.update(worker)
        if self._maintain.take_due() and not self._stops:
            self._do_maintenance()
        self._dashboards.notify_if_due()

    def _do_maintenance(self) -> None:
        """Look for what is to be done besides the jobs at work, for this worker's engines and for all workers."""
        if self._verify.take_due():
            self._verify_triggers()
        engines = self._engines.reachable_identities
        found = store.look(
            worker=self.id, executors=self._engines.reachable, queues=self._queues, using=self._options.using
        )
        if found.due:
            self._claims.hurry()
        if found.owns and not self._runs:
            # A claim or a rescue that was committed although its answer was lost.
            self._comparison.compare(self.id)
        if self._rescuer.rescue(self.id, engines, at_once=found.orphaned):
            self._comparison.compare(self.id)
        self._sweep.sweep_if_due()
        if not self._options.drain and self._options.only is None:
            self._engines.maintain()
        if found.maintains and self._maintenance.run(self.id, engines, retries_are_due=found.retries):
            self._claims.hurry()

    def _verify_triggers(self) -> None:
        """Stop if triggers are gone; those that merely differ may be of a newer release that was just migrated."""
        self._unguarded = store.missing_triggers(using=self._options.using)
        if self._unguarded:
            logger.error("Worker %s stops: triggers are missing: %s", self.id, ", ".join(self._unguarded))
            self.stop()

    def _wait(self) -> None:
        """Wait for a hint, or until the next timer is due."""
        timers = self._runs.timers
        if self._database.is_away:
            timers.append(self._database.back)
        else:
            timers += [self._reconcile, *self._claims.timers, *self._reports.timers, *self._dashboards.timers]
        now = time.monotonic()
        until = min([now + self._heartbeat.turn_seconds, *[timer.due_at for timer in timers]])
        if self._leave_at is not None:
            until = min(until, self._leave_at)
        for hint in self._hints.wait(max(0.0, until - now)):
            if hint == READY:
                self._claims.hurry()
            elif hint == CANCELLED:
                self._reconcile.hurry()

    def _may_claim(self) -> bool:
        # Without a lease it may have to register again.
        return not self._stops and self._heartbeat.has_lease()

    def _is_done(self) -> bool:
        if self._leave_at is not None and (self._database.is_away or time.monotonic() >= self._leave_at):
            return True
        if self._noted_stops:
            return all(run.executor.capabilities.survives_worker and run.outcome is None for run in self._runs)
        if self._runs:
            return False
        return self._claims.has_ended()

    def _take_stops(self) -> None:
        """Log that the worker was told to stop; told twice, stop what does not survive it.

        Two signals at once may arrive as one: who sends two waits for the log line between them.
        """
        if self._noted_stops != self._stops:
            self._noted_stops = self._stops
            logger.info("Worker %s was told to stop, with jobs=%s at work", self.id, len(self._runs))
        if self._noted_stops > 1:
            self._leave_at = self._leave_at or time.monotonic() + _LEAVE_SECONDS
            for run in self._runs:
                if run.stopped_for is None and not run.executor.capabilities.survives_worker:
                    self._runs.stop(run, "lost", grace=0.0)

    def _note_failed_thread(self, name: str) -> None:
        self._failed_threads.append(name)
        self._hints.put()

    def _note_left(self) -> None:
        """Log which jobs a worker leaves that has not stored their ends."""
        left = [run for run in self._runs if run.outcome is not None or not run.executor.capabilities.survives_worker]
        self._left = [run.job.id for run in left]
        if left:
            logger.error(
                "Worker %s leaves jobs whose ends are not stored: %s. The next worker finds how a container ended; "
                "it closes the attempts of local processes, which have ended, as lost, and retries their jobs if they "
                "have retries left.",
                self.id,
                ", ".join(str(job) for job in self._left),
            )

    # -- the lease -----------------------------------------------------------------------------------------------

    def _register(self) -> bool:
        """Register, once the database is available; return False if stopped meanwhile, or if triggers are missing.

        Raises what the database raises if the worker is to drain the queue, or if the database is available and
        refuses, for example because its tables are missing.
        """
        while not self._stops:
            try:
                return self._database.do(self._begin)
            except AWAY as error:
                using = self._options.using
                is_final = self._database.answered and not store.has_timed_out(error, using=using)
                if is_final or self._options.drain or self._database.is_callers:
                    raise
                logger.warning("The database cannot be reached, the worker waits for it: %s", error)
                self._hints.wait(LAST_RETRY_SECONDS)
        return False

    def _begin(self) -> bool:
        self._unguarded = store.missing_triggers(using=self._options.using, changed=True)
        if self._unguarded:
            return False
        self._verify.restart()
        self._heartbeat.register(self._options.using)
        return True

    def _register_again(self) -> None:
        """Abandon all attempts, since the lease was revoked, and register again."""
        runs = list(self._runs)
        logger.error(
            "The lease of worker %s was revoked; it registers again and abandons its %s jobs", self.id, len(runs)
        )
        for run in runs:
            self._runs.abandon(run)
        self._heartbeat.register(self._options.using)

    def _drop_lease(self) -> None:
        """Remove the worker's row, after an error too: others then need not wait for the lease to expire."""
        # Twice, unless the database is known to be away: the first may find that the connection is dead.
        for _ in range(1 if self._database.is_away else 2):
            self._database.back.hurry()
            self._database.attempt(lambda: store.drop_lease(self.id, using=self._options.using))
            if not self._database.is_away:
                break

"""What the runs of a worker have to tell the database: ends, output, launches and progress."""

from __future__ import annotations

from collections.abc import Sequence

from .. import store
from ..conf import RetrySettings
from ..jobs.package_log import package_logger
from ..jobs.tracing import is_recording
from .dashboard_notifier import DashboardNotifier
from .finisher import Finisher, note_refused_end, note_refused_output, note_refused_progress
from .outcomes import failed, storable
from .run import AttemptKey, Run, Stage, trace_attempt
from .runs import Runs
from .set_aside import SetAside
from .timers import Timer

# How often the progress of all attempts is read, and stored if it is new: an open file each, where there is one.
_PROGRESS_SECONDS = 2.0
# How often it stores at most what launches wait for: on a cluster each of them waits for several things in turn.
_WAITS_SECONDS = 1.0
# How long to pass over what is locked. A row that is locked for longer is worth a line in the log.
_LOCKED_SECONDS = 0.2
logger = package_logger(__name__)


class Reports:
    """Stores what is new of the runs. What the database does not take now is set aside, and the others go on.

    ``worker`` is the id that the worker has at this moment.
    """

    def __init__(
        self, runs: Runs, finisher: Finisher, dashboards: DashboardNotifier, *, retry: RetrySettings, using: str
    ) -> None:
        self._runs, self._finisher, self._dashboards = runs, finisher, dashboards
        self._retry, self._using = retry, using
        self._progress = Timer(_PROGRESS_SECONDS)
        self._waits = Timer(_WAITS_SECONDS)
        self._has_unstored_waits = False
        # Attempts of which the database takes neither end nor output nor handle for now: most often, their rows are
        # locked.
        self._unstorable: SetAside[AttemptKey] = SetAside(first_seconds=_LOCKED_SECONDS, longest_seconds=10.0)

    @property
    def timers(self) -> Sequence[Timer]:
        """The timer to wait for, if there is something to store when it is due."""
        return [self._waits] if self._has_unstored_waits else []

    def passed_over(self) -> set[AttemptKey]:
        """Return the attempts that are set aside now."""
        return self._unstorable.waiting()

    def storing(self) -> set[AttemptKey]:
        """Return the attempts whose ends are being stored: they are settled when the finisher is done with them."""
        return {run.id for run in self._finisher.batch}

    def count_unstored_ends(self) -> int:
        """Return how many attempts have ended, and their ends are being stored or are set aside."""
        count = len(self._finisher.batch)
        if passed_over := self._unstorable.waiting():
            count += sum(1 for run in self._runs if run.outcome is not None and run.id in passed_over)
        return count

    # -- ends ----------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """Remove the attempts whose end is stored; return whether all are that the finisher was given."""
        batch, done = self._finisher.take()
        if batch:
            self._dashboards.note_change()
        records_spans = bool(batch) and is_recording()
        for run in batch:
            if run.id in done:
                self._unstorable.drop(run.id)
                if records_spans:
                    trace_attempt(run)
                self._runs.remove(run)
            else:
                self._set_aside(run, "end")
        return len(done) == len(batch)

    def finish(self, worker: str) -> None:
        """Begin to store the ends of attempts that have an outcome, unless the finisher still has others."""
        if self._finisher.batch:
            return
        passed_over = self._unstorable.waiting()
        if ended := [run for run in self._runs if run.outcome is not None and run.id not in passed_over]:
            self._finisher.give(ended, worker=worker)

    def fail_odd_job(self, job: store.ClaimedJob, error: Exception, *, worker: str) -> None:
        """Fail a job whose own values no worker can work with: it would end this worker, then the next one."""
        logger.error("Job %s has values that no worker can work with", job.id, exc_info=error)
        message = f"Its values cannot be worked with: {type(error).__name__}: {error}. Enqueue a job with other values."
        self.end_without_run(failed(job, "start", message, retry=self._retry), worker=worker)

    def end_without_run(self, outcome: store.Outcome, *, worker: str) -> None:
        """Store the end of an attempt that this worker holds no run of; if that is not possible now, set it aside."""
        key = (outcome.job_id, outcome.attempt)
        if key not in store.finish([outcome], worker=worker, refused=note_refused_end, using=self._using):
            # It is still open, and found again by a later comparison.
            self._unstorable.put(key)

    # -- attempts that go on -------------------------------------------------------------------------------------

    def store_news(self, worker: str) -> None:
        """Store what is new of attempts that have not ended."""
        self._store_outputs(worker)
        self._store_launches(worker)
        if self._runs and self._progress.take_due():
            self._store_progress(worker)

    def _store_outputs(self, worker: str) -> None:
        passed_over = self._unstorable.waiting()
        waiting = [run for run in self._runs if run.log_changes and run.outcome is None and run.id not in passed_over]
        if waiting:
            self._dashboards.note_change()
            changes = [change for run in waiting for change in run.log_changes]
            again = any(run.set_aside for run in waiting)
            locked = store.store_logs(
                changes, worker=worker, refused=note_refused_output, skip_locked=again, using=self._using
            )
            for run in waiting:
                if run.id in locked:
                    self._set_aside(run, "output")
                else:
                    run.log_changes = []

    def _store_launches(self, worker: str) -> None:
        """Store how far launches have come: what they wait for, and the handles of attempts that survive this worker.

        Who adopts one that has a handle need not launch it again.
        """
        passed_over = self._unstorable.waiting()
        # Most runs have nothing to store, so that is asked first.
        fresh = [
            run
            for run in self._runs
            if not run.handle_stored
            and run.stage is Stage.RUNNING
            and run.executor.capabilities.survives_worker
            and run.id not in passed_over
        ]
        waiting = [
            run
            for run in self._runs
            if not run.wait_stored and run.stage is Stage.LAUNCHING and run.id not in passed_over
        ]
        if waiting and self._waits.take_due():
            fresh += waiting
            waiting = []
        self._has_unstored_waits = bool(waiting)
        if fresh:
            self._dashboards.note_change()
            self._record_launches(fresh, worker)

    def _record_launches(self, fresh: Sequence[Run], worker: str) -> None:
        # Without a handle an attempt is found by its key.
        launches = [run.launch() for run in fresh if run.handle == storable(run.handle)]
        refusals: dict[AttemptKey, Exception] = {}
        locked = store.record_launches(
            launches,
            worker=worker,
            refused=lambda launch, error: refusals.update({launch.key: error}),
            using=self._using,
        )
        for run in fresh:
            if run.id in refusals:
                logger.error("The database refuses the handle of job=%s attempt=%s: %s", *run.id, refusals[run.id])
            if run.id in locked or run.id in refusals:
                self._set_aside(run, "handle")
            else:
                run.handle_stored, run.wait_stored = run.stage is Stage.RUNNING, True

    def _store_progress(self, worker: str) -> None:
        """Store what is new of how far attempts say that they have come."""
        if fresh := self._runs.read_progress():
            self._dashboards.note_change()
            changes = [change for run in fresh for change in run.progress_changes()]
            locked = store.store_progress(changes, worker=worker, refused=note_refused_progress, using=self._using)
            for run in fresh:
                # Not set aside: its output and its end need not wait for this.
                run.progress_stored = run.id not in locked

    def _set_aside(self, run: Run, what: str) -> None:
        """Pass over an attempt for a while whose rows another transaction has locked, say; the others go on."""
        seconds, run.set_aside = self._unstorable.put(run.id), True
        if seconds > _LOCKED_SECONDS:
            text = "The %s of job=%s attempt=%s is not stored yet (are its rows locked?), trying again in %s s"
            logger.warning(text, what, *run.id, seconds)

"""Compare the runs of a worker with the attempts that are its own by the database."""

from __future__ import annotations

from .. import store
from ..conf import AppSettings
from ..jobs.package_log import package_logger
from .job_limits import within_limits
from .outcomes import closed, failed
from .reports import Reports
from .runs import Runs

logger = package_logger(__name__)


class Comparison:
    """Stops attempts whose jobs were cancelled, abandons those that were lost, adopts those that were rescued."""

    def __init__(self, runs: Runs, reports: Reports, settings: AppSettings, *, using: str) -> None:
        self._runs, self._reports, self._settings, self._using = runs, reports, settings, using

    def compare(self, worker: str) -> None:
        """Compare, and do what follows from it; ``worker`` is the id that the worker has at this moment."""
        owned = {(o.job.id, o.job.attempt): o for o in store.owned_attempts(worker=worker, using=self._using)}
        storing = self._reports.storing()
        for run in list(self._runs):
            if run.id in storing:
                continue
            found = owned.pop(run.id, None)
            if found is None:
                self._runs.abandon(run)
            elif found.kill_requested and not run.killed:
                logger.info("Job %s is %s: its attempt is killed", run.job.id, found.status)
                self._runs.kill(run)
            elif found.status != "running" and run.stopped_for is None:
                logger.info("Job %s is %s: its attempt is stopped", run.job.id, found.status)
                self._runs.stop(run, "cancelled", grace=run.grace_seconds)
        for key in owned.keys() - storing - self._reports.passed_over():
            self._adopt(owned[key], worker)

    def _adopt(self, found: store.OwnedAttempt, worker: str) -> None:
        job = within_limits(found.job, self._settings)
        if self._runs.can_adopt(found):
            try:
                self._runs.adopt(found, by=worker)
            except Exception as error:
                self._reports.fail_odd_job(job, error, worker=worker)
            return
        message = "Its worker has died, and the command with it. It is run again if it has retries left."
        is_wanted = found.status == "running"
        outcome = failed(job, "lost", message, retry=self._settings.retry) if is_wanted else closed(job, None)
        self._reports.end_without_run(outcome, worker=worker)

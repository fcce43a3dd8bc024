"""What one worker, the oldest alive, does for all: queue due retries, count, prune, give up what nobody reaches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from django.db import transaction

from .. import store
from ..conf import AppSettings
from ..executors.base import ExitStatus
from ..jobs.package_log import package_logger
from ..signals import maintenance_due
from .job_limits import within_limits
from .outcomes import closed, failed, unschedulable_message
from .set_aside import SetAside
from .sightings import Sightings
from .timers import Timer

_PRUNE_SECONDS = 60.0
# How often to look again at old jobs that could not be deleted.
_PRUNE_AGAIN_SECONDS = 3600.0
_OTHERS_SECONDS = 5.0
_COUNT_SECONDS, _COUNT_AGAIN_SECONDS, _PRUNE_COUNTS_SECONDS = 10.0, 600.0, 3600.0
logger = package_logger(__name__)


class Maintenance:
    """Queues retries that are due, counts, prunes, and gives up attempts and jobs that no worker reaches."""

    def __init__(self, settings: AppSettings, *, using: str) -> None:
        self._settings, self._using = settings, using
        self._prune, self._prune_again = Timer(_PRUNE_SECONDS), Timer(_PRUNE_AGAIN_SECONDS)
        self._pruning = store.Pruning(using=using)
        self._others = Timer(_OTHERS_SECONDS)
        self._count, self._prune_counts = Timer(_COUNT_SECONDS), Timer(_PRUNE_COUNTS_SECONDS)
        self._aggregation = store.Aggregation(keep_seconds=settings.statistics_days * 86400, using=using)
        self._refused: SetAside[UUID] = SetAside(first_seconds=1.0, longest_seconds=600.0)
        self._sweep = Timer(max(settings.poll_seconds, settings.unreachable_seconds / 2))
        self._unserved: set[tuple[str, str]] = set()
        self._look = Timer(max(settings.poll_seconds, settings.unreachable_seconds / 8))
        self._unowned = Sightings[store.UnownedAttempt](gap_seconds=4 * self._look.seconds)

    def run(self, worker: str, engines: Mapping[str, str], *, retries_are_due: bool) -> bool:
        """Do what is due, as the maintainer; return whether jobs have become ready.

        ``engines``: by executor, the identity of the engine that this worker reaches at this moment.
        """
        if self._settings.prune_after_seconds is not None and self._prune.take_due():
            self._prune_jobs(self._settings.prune_after_seconds)
        if maintenance_due.receivers and self._others.take_due():
            # Robust: what another app does wrong is logged, and stops no worker.
            answers = maintenance_due.send_robust(sender=type(self), using=self._using)
            if any(answer is True for _, answer in answers):
                self._others.hurry()
        if self._sweep.take_due():
            self._warn_of_unserved()
            if self._settings.unschedulable_after_seconds is not None:
                self._fail_unschedulable(worker, self._settings.unschedulable_after_seconds)
        if self._look.take_due():
            self._give_up_unreachable(worker, engines)
        self._keep_statistics()
        besides = self._refused.waiting()
        return retries_are_due and bool(
            store.promote_retries(besides=besides, refused=self._note_refusal, using=self._using)
        )

    def _keep_statistics(self) -> None:
        # One batch at a time too.
        try:
            if self._count.take_due() and self._aggregation.step():
                self._count.hurry()
            if self._prune_counts.take_due() and self._aggregation.prune():
                self._prune_counts.hurry()
        except Exception as error:
            # An odd row must end no worker: jobs matter more than their statistics.
            if not store.is_refusal(error, using=self._using):
                raise
            self._count.postpone(_COUNT_AGAIN_SECONDS)
            logger.exception("Statistics cannot be counted, trying again in %s s", _COUNT_AGAIN_SECONDS)

    def _note_refusal(self, job: UUID, error: Exception) -> None:
        seconds = self._refused.put(job)
        logger.error("The database refuses a transition of job %s, trying again in %s s: %s", job, seconds, error)

    def _prune_jobs(self, after_seconds: float) -> None:
        before = store.database_now(using=self._using) - timedelta(seconds=after_seconds)
        if self._prune_again.take_due():
            self._pruning.restart()
        # One batch at a time: meanwhile the worker does nothing else.
        _, there_is_more = self._pruning.delete(before=before, size=store.PRUNE_BATCH)
        if there_is_more:
            self._prune.hurry()

    def _give_up_unreachable(self, worker: str, engines: Mapping[str, str]) -> None:
        """Close what dead workers have left on engines that nobody reaches: who does rescues it within a moment."""
        using, bound = self._using, self._settings.unreachable_seconds
        seen = self._unowned.look(store.unowned_attempts(worker=worker, engines=engines, using=using))
        overdue = {attempt.key: attempt for attempt, seconds in seen.items() if seconds >= bound}
        if not overdue:
            return
        with transaction.atomic(using=using):
            store.take_over(list(overdue.values()), worker=worker, using=using)
            outcomes = []
            for owned in store.owned_attempts(worker=worker, using=using):
                if attempt := overdue.get((owned.job.id, owned.job.attempt)):
                    message = (
                        f"No worker reached its engine, {attempt.engine} of executor {attempt.executor!r}, for "
                        f"{bound:g} s (UNREACHABLE_SECONDS). Run a worker that does."
                    )
                    job, unproven = within_limits(owned.job, self._settings), ExitStatus(may_run=True)
                    lost = failed(job, "lost", message, exit_status=unproven, retry=self._settings.retry)
                    outcomes.append(lost if owned.status == "running" else closed(owned.job, None, message))
            store.finish(outcomes, worker=worker, using=using)
        for outcome in outcomes:
            logger.error("Attempt %s of job %s is given up: %s", outcome.attempt, outcome.job_id, outcome.message)

    def _warn_of_unserved(self) -> None:
        """Log once, until a worker has served it, what jobs wait for."""
        found = set(store.unserved_destinations(using=self._using))
        for executor, queue in sorted(found - self._unserved):
            logger.warning("No live worker serves executor %r in queue %r: its jobs wait", executor, queue)
        self._unserved = found

    def _fail_unschedulable(self, worker: str, after_seconds: float) -> None:
        """Fail jobs whose executor or queue nobody knows, if the settings ask for that."""
        using, settings = self._using, self._settings
        executors, queues = sorted(settings.executors), settings.queues
        found = store.unschedulable_jobs(
            executors=executors, queues=queues, older_than_seconds=after_seconds, using=using
        )
        if len(found) == store.UNSCHEDULABLE_BATCH:
            self._sweep.hurry()
        for job, executor, name in found:
            if job in self._refused.waiting():
                continue
            message = unschedulable_message(executor, name, executors=executors, queues=queues)
            try:
                self._fail_job(job, executor, message, worker)
            except Exception as error:
                if not store.is_refusal(error, using=using):
                    raise
                self._note_refusal(job, error)

    def _fail_job(self, job: UUID, executor: str, message: str, worker: str) -> None:
        using = self._using
        with transaction.atomic(using=using):
            claimed = store.claim(worker=worker, executors=[executor], only=job, limit=1, using=using)
            outcomes = [failed(each, "unschedulable", message, retry=self._settings.retry) for each in claimed]
            if outcomes:
                store.finish(outcomes, worker=worker, using=using)
                logger.error("Job %s failed: %s", job, message)

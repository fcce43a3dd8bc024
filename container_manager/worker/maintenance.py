"""What one worker, the oldest alive, does for all: queue due retries, prune, fail unschedulable jobs."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from .. import store
from ..conf import AppSettings
from ..queue.pruning import PRUNE_BATCH, Pruning
from .outcomes import failed, unschedulable_message
from .set_aside import SetAside
from .timers import Timer

_PRUNE_SECONDS = 60.0
# How often to look again at old jobs that could not be deleted.
_PRUNE_ANEW_SECONDS = 3600.0
logger = logging.getLogger(__name__)


class Maintenance:
    """Queues retries that are due, prunes, and fails jobs that no worker will ever run."""

    def __init__(self, settings: AppSettings, *, using: str) -> None:
        self._settings, self._using = settings, using
        self._prune, self._prune_anew = Timer(_PRUNE_SECONDS), Timer(_PRUNE_ANEW_SECONDS)
        self._pruning = Pruning(using=using)
        self._refused: SetAside[UUID] = SetAside(first_seconds=1.0, longest_seconds=600.0)
        # It scans all queued jobs.
        self._sweep = Timer(max(settings.poll_seconds, settings.unreachable_seconds / 2))

    def run(self, worker: str) -> bool:
        """Do what is due if ``worker`` is the maintainer; return whether jobs have become ready."""
        if not store.is_maintainer(worker, using=self._using):
            return False
        if self._settings.prune_after_seconds is not None and self._prune.take_due():
            self._prune_jobs(self._settings.prune_after_seconds)
        if self._sweep.take_due():
            self._fail_unschedulable(worker)
        besides = self._refused.waiting()
        return bool(store.promote_retries(besides=besides, refused=self._note_refusal, using=self._using))

    def _note_refusal(self, job: UUID, error: Exception) -> None:
        seconds = self._refused.put(job)
        logger.error("The database refuses a transition of job %s, trying again in %s s: %s", job, seconds, error)

    def _prune_jobs(self, after_seconds: float) -> None:
        before = timezone.now() - timedelta(seconds=after_seconds)
        if self._prune_anew.take_due():
            self._pruning.restart()
        # One batch at a time: meanwhile the worker does nothing else.
        _, there_is_more = self._pruning.delete(before=before, size=PRUNE_BATCH)
        if there_is_more:
            self._prune.hurry()

    def _fail_unschedulable(self, worker: str) -> None:
        """Fail jobs whose executor or queue nobody knows: they would wait for ever."""
        using, settings = self._using, self._settings
        executors, queues = sorted(settings.executors), settings.queues
        for job, executor, name in store.unschedulable_jobs(
            executors=executors, queues=queues, older_than_seconds=settings.unreachable_seconds, using=using
        ):
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

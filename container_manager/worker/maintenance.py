"""What one worker, the oldest alive, does for all: queue due retries, prune, fail unschedulable jobs."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from .. import store
from ..conf import AppSettings
from ..queue.pruning import PRUNE_BATCH, prune_jobs
from .outcomes import failed, unschedulable_message
from .timers import Timer

_PRUNE_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Maintenance:
    """Queues retries that are due, prunes, and fails jobs that no worker will ever run."""

    def __init__(self, settings: AppSettings, *, using: str) -> None:
        self._settings, self._using = settings, using
        self._prune = Timer(_PRUNE_SECONDS)
        self._sweep = Timer(max(settings.poll_seconds, settings.unreachable_seconds / 2))

    def run(self, worker: str, *, retries_are_due: bool) -> bool:
        """Do what is due, as the maintainer; return whether jobs have become ready."""
        if self._settings.prune_after_seconds is not None and self._prune.take_due():
            self._prune_jobs(self._settings.prune_after_seconds)
        if self._sweep.take_due():
            self._fail_unschedulable(worker)
        return retries_are_due and bool(store.promote_retries(using=self._using))

    def _prune_jobs(self, after_seconds: float) -> None:
        before = timezone.now() - timedelta(seconds=after_seconds)
        # One batch at a time: meanwhile the worker does nothing else.
        if prune_jobs(before=before, limit=PRUNE_BATCH, using=self._using) == PRUNE_BATCH:
            self._prune.hurry()

    def _fail_unschedulable(self, worker: str) -> None:
        """Fail jobs whose executor or queue nobody knows: they would wait for ever."""
        using, settings = self._using, self._settings
        executors, queues = sorted(settings.executors), settings.queues
        for job, executor, name in store.unschedulable_jobs(
            executors=executors, queues=queues, older_than_seconds=settings.unreachable_seconds, using=using
        ):
            message = unschedulable_message(executor, name, executors=executors, queues=queues)
            with transaction.atomic(using=using):
                claimed = store.claim(worker=worker, executors=[executor], only=job, limit=1, using=using)
                outcomes = [failed(each, "unschedulable", message, retry=settings.retry) for each in claimed]
                if outcomes:
                    store.finish(outcomes, worker=worker, using=using)
                    logger.error("Job %s failed: %s", job, message)

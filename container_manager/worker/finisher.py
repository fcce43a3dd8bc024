"""Store how attempts ended, while the worker's loop goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue

from django.db import connections

from .. import store
from ..jobs.package_log import package_logger
from .database import Database
from .run import AttemptKey, Run

logger = package_logger(__name__)


def note_refused_end(outcome: store.Outcome, error: Exception) -> None:
    """Log that the database refuses how an attempt ended: it stays open, and is tried again."""
    key = (outcome.job_id, outcome.attempt)
    logger.error("The database refuses the end of job=%s attempt=%s (%s): %s", *key, outcome.status or "closed", error)


def note_refused_output(change: store.LogChange, error: Exception) -> None:
    """Log that the database refuses output, which is lost: the end of its attempt must not wait for it."""
    logger.error("The database refuses output of job=%s attempt=%s: %s", change.job_id, change.attempt, error)


def note_refused_progress(change: store.ProgressChange, error: Exception) -> None:
    """Log that the database refuses progress, which is lost."""
    logger.error("The database refuses progress of job=%s attempt=%s: %s", change.job_id, change.attempt, error)


class Finisher:
    """Stores one batch at a time. What ends meanwhile is the next batch, so batches grow with the load.

    Once started, a thread stores them on a connection of its own. On SQLite, where writers only wait for each other,
    and on the connection of the worker's caller, a batch is stored at once.
    ``database`` is the finisher's own; ``wake`` is called when a batch is done.
    """

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database, self._wake = database, wake
        # Plain queues: measured, a pool with futures takes as long to pass a batch on and back as the statement itself.
        self._given: SimpleQueue[tuple[Sequence[Run], str] | None] = SimpleQueue()
        self._stored: SimpleQueue[set[AttemptKey] | BaseException] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.batch: Sequence[Run] = ()

    def start(self) -> None:
        # Only when the worker runs: a process that forks after it was made would have a finisher without its thread.
        if self._database.is_callers:
            return
        if connections[self._database.using].features.has_select_for_update:
            # In a copy of this context, which says who sends signals.
            run = partial(copy_context().run, self._run)
            self._thread = threading.Thread(target=run, name="container-manager-finisher", daemon=True)
            self._thread.start()

    def give(self, ended: Sequence[Run], *, worker: str) -> None:
        """Begin to store a batch of runs that have an outcome; call it only while `batch` is empty.

        Where the batch is stored at once, raises what the database raises: then give it again.
        """
        if self._thread is not None:
            self._given.put((ended, worker))
        else:
            self._hand_back(self._store(ended, worker))
        self.batch = ended

    def take(self) -> tuple[Sequence[Run], set[AttemptKey]]:
        """Return a batch that is done, and which of its attempts are closed now; both empty while there is none.

        Raises what the database raised: then give the batch again.
        """
        if self._stored.empty():
            return (), set()
        batch, self.batch = self.batch, ()
        stored = self._stored.get()
        if isinstance(stored, BaseException):
            raise stored
        return batch, stored

    def close(self) -> None:
        """Wait until what was given is stored, and end the thread, or leave the caller's connection as it was found."""
        if self._thread is not None:
            self._given.put(None)
            self._thread.join()
        else:
            self._database.end()

    def _run(self) -> None:
        try:
            while (given := self._given.get()) is not None:
                stored: set[AttemptKey] | BaseException
                try:
                    stored = self._store(*given)
                except BaseException as error:
                    # Any error is raised in the loop, by `take`: else it would wait for this batch for ever.
                    stored = error
                self._hand_back(stored)
        finally:
            self._database.close()

    def _hand_back(self, stored: set[AttemptKey] | BaseException) -> None:
        self._stored.put(stored)
        self._wake()

    def _store(self, ended: Sequence[Run], worker: str) -> set[AttemptKey]:
        using = self._database.using

        def send() -> set[AttemptKey]:
            changes = [change for run in ended for change in run.log_changes]
            again = any(run.set_aside for run in ended)
            locked = store.store_logs(
                changes, worker=worker, refused=note_refused_output, skip_locked=again, using=using
            )
            if said := [change for run in ended for change in run.progress_changes()]:
                locked |= store.store_progress(said, worker=worker, refused=note_refused_progress, using=using)
            outcomes = [run.outcome for run in ended if run.outcome and run.id not in locked]
            return store.finish(outcomes, worker=worker, refused=note_refused_end, skip_locked=again, using=using)

        return self._database.do(send)

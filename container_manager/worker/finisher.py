"""Store how attempts ended, while the worker's loop goes on to the next ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from django.db import connections

from .. import queue
from .database import Database
from .held import AttemptKey, HeldAttempt


class Finisher:
    """Takes one batch at a time; what ends meanwhile makes the next, so the busier it is, the larger they are.

    Another thread stores it on a connection of its own, where writers can go side by side. On SQLite they would only
    wait for each other, and it is stored at once. ``database`` is its own; ``wake`` is called when a batch is done.
    """

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database, self._wake = database, wake
        # Plain queues: a pool with its futures takes as long to pass a batch on and back as to send the statement.
        self._given: SimpleQueue[tuple[Sequence[HeldAttempt], str] | None] = SimpleQueue()
        self._stored: SimpleQueue[set[AttemptKey] | Exception] = SimpleQueue()
        self._thread: threading.Thread | None = None
        if connections[database.using].features.has_select_for_update:
            self._thread = threading.Thread(target=self._run, name="container-manager-finisher", daemon=True)
            self._thread.start()
        self.batch: Sequence[HeldAttempt] = ()

    def give(self, ended: Sequence[HeldAttempt], *, worker: str) -> None:
        """Begin to store a batch, each with its outcome; only while `batch`, what was given last, is empty."""
        self.batch = ended
        if self._thread is not None:
            self._given.put((ended, worker))
        else:
            self._store(ended, worker)

    def take(self) -> tuple[Sequence[HeldAttempt], set[AttemptKey]]:
        """Return a batch that is done, and which of its attempts are closed now; nothing while there is none.

        Raises what the database raised: then the batch is to be given again.
        """
        if self._stored.empty():
            return (), set()
        batch, self.batch = self.batch, ()
        stored = self._stored.get()
        if isinstance(stored, Exception):
            raise stored
        return batch, stored

    def close(self) -> None:
        if self._thread is not None:
            self._given.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            self._store(*given)
        self._database.close()

    def _store(self, ended: Sequence[HeldAttempt], worker: str) -> None:
        using = self._database.using

        def store() -> set[AttemptKey]:
            queue.store_logs([change for held in ended for change in held.log_changes], worker=worker, using=using)
            return queue.finish([held.outcome for held in ended if held.outcome], worker=worker, using=using)

        try:
            self._stored.put(self._database.do(store))
        except Exception as error:
            # It belongs to the loop, which decides what is to be done.
            self._stored.put(error)
        self._wake()

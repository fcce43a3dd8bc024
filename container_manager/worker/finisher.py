"""Store how attempts ended, while the worker's loop goes on to the next ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from django.db import connections

from .. import store
from .database import Database
from .runs import AttemptKey, Run


class Finisher:
    """Takes one batch at a time; what ends meanwhile makes the next, so the busier it is, the larger they are.

    Another thread, once it is started, stores it on a connection of its own, where writers can go side by side. On
    SQLite they would only wait for each other, and it is stored at once. ``database`` is its own; ``wake`` is called
    when a batch is done.
    """

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database, self._wake = database, wake
        # Plain queues: a pool with its futures takes as long to pass a batch on and back as to send the statement.
        self._given: SimpleQueue[tuple[Sequence[Run], str] | None] = SimpleQueue()
        self._stored: SimpleQueue[set[AttemptKey] | BaseException] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.batch: Sequence[Run] = ()

    def start(self) -> None:
        # Not before the worker runs: a process that forks between the two would have a finisher without its thread.
        if connections[self._database.using].features.has_select_for_update:
            self._thread = threading.Thread(target=self._run, name="container-manager-finisher", daemon=True)
            self._thread.start()

    def give(self, ended: Sequence[Run], *, worker: str) -> None:
        """Begin to store a batch, each with its outcome; only while `batch`, what was given last, is empty.

        Where it is stored at once, raises what the database raises: then it is to be given again.
        """
        if self._thread is not None:
            self._given.put((ended, worker))
        else:
            self._hand_back(self._store(ended, worker))
        self.batch = ended

    def take(self) -> tuple[Sequence[Run], set[AttemptKey]]:
        """Return a batch that is done, and which of its attempts are closed now; nothing while there is none.

        Raises what the database raised: then the batch is to be given again.
        """
        if self._stored.empty():
            return (), set()
        batch, self.batch = self.batch, ()
        stored = self._stored.get()
        if isinstance(stored, BaseException):
            raise stored
        return batch, stored

    def close(self) -> None:
        if self._thread is not None:
            self._given.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            stored: set[AttemptKey] | BaseException
            try:
                stored = self._store(*given)
            except BaseException as error:
                # Whatever it is, it belongs to the loop, which would wait for this batch for ever.
                stored = error
            self._hand_back(stored)
        self._database.close()

    def _hand_back(self, stored: set[AttemptKey] | BaseException) -> None:
        self._stored.put(stored)
        self._wake()

    def _store(self, ended: Sequence[Run], worker: str) -> set[AttemptKey]:
        using = self._database.using

        def send() -> set[AttemptKey]:
            store.store_logs([change for held in ended for change in held.log_changes], worker=worker, using=using)
            return store.finish([held.outcome for held in ended if held.outcome], worker=worker, using=using)

        return self._database.do(send)

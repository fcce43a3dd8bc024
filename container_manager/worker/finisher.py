"""Store how attempts ended, while the worker's loop goes on to the next ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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
        self._thread: ThreadPoolExecutor | None = None
        if connections[database.using].features.has_select_for_update:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="container-manager-finisher")
        self._stored: Future[set[AttemptKey]] | None = None
        self.batch: Sequence[HeldAttempt] = ()

    def give(self, ended: Sequence[HeldAttempt], *, worker: str) -> None:
        """Begin to store a batch, each with its outcome; only while `batch`, what was given last, is empty."""
        stored: Future[set[AttemptKey]]
        if self._thread is not None:
            stored = self._thread.submit(self._store, ended, worker)
        else:
            stored = Future()
            stored.set_result(self._store(ended, worker))
        self.batch, self._stored = ended, stored
        stored.add_done_callback(lambda _: self._wake())

    def take(self) -> tuple[Sequence[HeldAttempt], set[AttemptKey]]:
        """Return a batch that is done, and which of its attempts are closed now; nothing while there is none.

        Raises what the database raised: then the batch is to be given again.
        """
        if self._stored is None or not self._stored.done():
            return (), set()
        batch, stored = self.batch, self._stored
        self.batch, self._stored = (), None
        return batch, stored.result()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.submit(self._database.close)
            self._thread.shutdown()

    def _store(self, ended: Sequence[HeldAttempt], worker: str) -> set[AttemptKey]:
        using = self._database.using

        def store() -> set[AttemptKey]:
            queue.store_logs([change for held in ended for change in held.log_changes], worker=worker, using=using)
            return queue.finish([held.outcome for held in ended if held.outcome], worker=worker, using=using)

        return self._database.do(store)

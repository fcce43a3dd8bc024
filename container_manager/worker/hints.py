"""Hints that wake a worker's loop."""

from __future__ import annotations

from queue import Empty, SimpleQueue

# A hint that is not from the database: an engine or another thread of this worker has news, or it is told to stop.
_NEWS = ""


class Hints:
    """What the loop waits for. Any thread may call `put` and `awaken`, a signal handler too."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[str] = SimpleQueue()

    def put(self, hint: str = _NEWS) -> None:
        """Give the loop a hint: one of the database's, by default that there is news of another kind."""
        self._queue.put(hint)

    def awaken(self) -> None:
        """End the wait, if the loop waits."""
        if self._queue.empty():
            self._queue.put(_NEWS)

    def wait(self, seconds: float) -> set[str]:
        """Return the hints that have come, once there is one; none if none comes within this time."""
        try:
            hints = {self._queue.get(timeout=seconds)}
        except Empty:
            return set()
        while not self._queue.empty():
            hints.add(self._queue.get())
        return hints

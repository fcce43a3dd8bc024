"""What the database would not take from a worker, until it is tried again."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class SetAside(Generic[K]):
    """Keys that are passed over for a while: refused by the database, or locked by another transaction.

    The pause before a key is tried again is ``first_seconds``, and doubles each time up to ``longest_seconds``.
    """

    def __init__(self, *, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._pauses: dict[K, tuple[float, float]] = {}

    def put(self, key: K) -> float:
        """Pass over a key from now on; return for how many seconds."""
        now = time.monotonic()
        seconds = min(self._longest, 2 * self._pauses[key][0] if key in self._pauses else self._first)
        # Nobody says that a key is done with if another worker has dealt with it.
        self._pauses = {other: pause for other, pause in self._pauses.items() if pause[1] > now - 2 * self._longest}
        self._pauses[key] = (seconds, now + seconds)
        return seconds

    def drop(self, key: K) -> None:
        """Forget a key: it was taken, or is no longer this worker's."""
        self._pauses.pop(key, None)

    def waiting(self) -> set[K]:
        """Return the keys to pass over now."""
        if not self._pauses:
            return set()
        now = time.monotonic()
        return {key for key, (_, until) in self._pauses.items() if until > now}

"""Timers of a loop that waits for whatever is due first."""

from __future__ import annotations

import time


class Timer:
    """Says when something is due again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._next = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.seconds
        return True

    def hurry(self) -> None:
        self._next = 0.0

    def postpone(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)

    def left(self) -> float:
        return max(0.0, self._next - time.monotonic())

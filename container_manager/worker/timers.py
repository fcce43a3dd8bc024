"""Timers of a loop that waits for whatever is due first."""

from __future__ import annotations

import time


class Timer:
    """Tells when something is due again; due at first. Any thread may call `hurry`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        # By the monotonic clock.
        self.due_at = 0.0

    def take_due(self) -> bool:
        """Return whether it is due; if so, restart."""
        now = time.monotonic()
        if now < self.due_at:
            return False
        self.due_at = now + self.seconds
        return True

    def restart(self) -> None:
        """Be due in ``seconds`` from now."""
        self.due_at = time.monotonic() + self.seconds

    def hurry(self) -> None:
        """Be due now."""
        self.due_at = 0.0

    def postpone(self, seconds: float) -> None:
        """Be due in ``seconds`` from now at the earliest."""
        self.due_at = max(self.due_at, time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds until it is due."""
        return max(0.0, self.due_at - time.monotonic())

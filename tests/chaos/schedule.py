"""Which disturbance comes next, and how often each has happened."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping


class Schedule:
    """Draws at random by weight. What has not happened yet is preferred: else a run would prove nothing about it."""

    def __init__(self, weights: Mapping[str, float], chance: random.Random) -> None:
        self._weights, self._random = weights, chance
        self.happened: Counter[str] = Counter()
        # Which are under way: they have happened once they have ended.
        self.pending: set[str] = set()
        self.history: list[str] = []

    @property
    def missing(self) -> list[str]:
        """The disturbances that have not happened."""
        return [name for name in self._weights if not self.happened[name]]

    def draw(self) -> str:
        awaited = [name for name in self.missing if name not in self.pending]
        if awaited and self._random.random() < 0.5:
            return self._random.choice(awaited)
        return self._random.choices([*self._weights], [*self._weights.values()])[0]

    def begin(self, name: str) -> None:
        """Note the beginning of a disturbance that lasts."""
        self.pending.add(name)
        self._record(f"{name} begins")

    def note(self, name: str) -> None:
        """Note a disturbance that has happened."""
        self.pending.discard(name)
        self.happened[name] += 1
        self._record(name)

    def _record(self, text: str) -> None:
        self.history.append(f"{text} at {time.clock_gettime(time.CLOCK_BOOTTIME):.2f};")

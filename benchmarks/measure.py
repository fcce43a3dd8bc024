"""Measure contenders side by side: in turns, so that a noisy machine treats all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# A contender is told how many calls to prepare, and returns them; only the calls are timed.
Prepare = Callable[[int], Iterable[Callable[[], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A ratio, what it should be, and whether it is. ``limit`` of None: only to look at."""

    name: str
    ratio: float
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool:
        if self.limit is None:
            return True
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    @property
    def target(self) -> str:
        if self.limit is None:
            return ""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


def in_turns(contenders: Mapping[str, Prepare], *, rounds: int, calls: int) -> dict[str, float]:
    """Return each contender's median seconds per call; the first round warms up and does not count."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, prepare in contenders.items():
            ready = list(prepare(calls))
            start = time.perf_counter()
            for call in ready:
                call()
            seconds = (time.perf_counter() - start) / len(ready)
            if number:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}

"""Compare contenders in one interleaved run: what disturbs the machine disturbs them all."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Seconds = dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """``prepare`` makes the subjects of one turn, and is not timed; ``run`` is called once for each, and is."""

    name: str
    prepare: Callable[[int], Sequence[Any]]
    run: Callable[[Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The median over the rounds, and the quartiles."""

    median: float
    low: float
    high: float


def interleave(contenders: Sequence[Contender], *, rounds: int, batch: int) -> Seconds:
    """Return the seconds per run of each contender, one figure a round. One more round before warms up."""
    seconds: Seconds = {contender.name: [] for contender in contenders}
    order = deque(contenders)
    for _ in range(rounds + 1):
        for contender in order:
            seconds[contender.name].append(_turn(contender, batch))
        # Nobody is always the one after the slowest.
        order.rotate(1)
    return {name: figures[1:] for name, figures in seconds.items()}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Compare two contenders round by round."""
    ratios = [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return Ratio(median=median(ratios), low=low, high=high)


def _turn(contender: Contender, batch: int) -> float:
    subjects = contender.prepare(batch)
    run = contender.run
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for subject in subjects:
            run(subject)
        return (time.perf_counter() - start) / len(subjects)
    finally:
        gc.enable()

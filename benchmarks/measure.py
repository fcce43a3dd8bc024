"""Compare contenders in one interleaved run: what disturbs the machine disturbs them all."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Seconds = dict[str, list[float]]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """``prepare`` makes the subjects of one turn, and is not timed; ``run`` is called once for each, and is."""

    name: str
    prepare: Callable[[int], Sequence[Any]]
    run: Callable[[Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The ratio of the medians, and the quartiles of the ratios round by round."""

    value: float
    low: float
    high: float


def interleave(contenders: Sequence[Contender], *, rounds: int, batch: int, clock: Clock) -> Seconds:
    """Return the seconds per run of each contender, one figure a round. One more round before warms up."""
    seconds: Seconds = {contender.name: [] for contender in contenders}
    order = deque(contenders)
    for _ in range(rounds + 1):
        for contender in order:
            seconds[contender.name].append(_turn(contender, batch, clock))
        # Nobody is always the one after the slowest.
        order.rotate(1)
    return {name: figures[1:] for name, figures in seconds.items()}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Compare two contenders of one run."""
    low, _, high = quantiles([a / b for a, b in zip(numerators, denominators, strict=True)], n=4)
    return Ratio(value=median(numerators) / median(denominators), low=low, high=high)


def _turn(contender: Contender, batch: int, clock: Clock) -> float:
    subjects = contender.prepare(batch)
    run = contender.run
    gc.disable()
    try:
        start = clock()
        for subject in subjects:
            run(subject)
        return (clock() - start) / len(subjects)
    finally:
        gc.enable()

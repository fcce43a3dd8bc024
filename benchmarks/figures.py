"""Ratios with a target, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .measure import Seconds, ratio

_HEADERS = ("database", "ratio", "measured", "quartiles", "target", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a ratio is to be: at most the limit, or with ``least`` at least (a limit of 1: faster)."""

    limit: float
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """How long one thing takes, divided by how long another takes in the same run."""

    database: str
    subject: str
    baseline: str
    measured: float
    quartiles: tuple[float, float]
    subject_microseconds: float
    baseline_microseconds: float
    target: str
    met: bool

    @classmethod
    def of(cls, database: str, seconds: Seconds, subject: str, baseline: str, target: Target) -> Figure:
        """Compare two contenders of one run."""
        found = ratio(seconds[subject], seconds[baseline])
        # Judged as it is printed.
        measured = round(found.value, 2)
        return cls(
            database=database,
            subject=subject,
            baseline=baseline,
            measured=measured,
            quartiles=(round(found.low, 2), round(found.high, 2)),
            subject_microseconds=round(median(seconds[subject]) * 1e6, 1),
            baseline_microseconds=round(median(seconds[baseline]) * 1e6, 1),
            target=str(target),
            met=target.is_met(measured),
        )


def table(figures: Sequence[Figure]) -> str:
    """Return one line per figure."""
    rows = [_HEADERS, *map(_row, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(figure: Figure) -> tuple[str, ...]:
    low, high = figure.quartiles
    return (
        figure.database,
        f"{figure.subject} / {figure.baseline}",
        f"{figure.measured:.2f}",
        f"{low:.2f} to {high:.2f}",
        figure.target,
        "yes" if figure.met else "MISSED",
    )

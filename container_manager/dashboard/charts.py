"""Charts as SVG: stacked bars and lines over time, in numbers that a template draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 170, 44, 18, 6
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT, _HEIGHT - _BOTTOM - _TOP
_TIME_LABELS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """A part of a bar; ``title`` is what the browser shows on it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A label at an axis and where it stands."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn; ``is_empty``: nothing is known of that time."""

    rectangles: tuple[Rectangle, ...] = ()
    lines: tuple[str, ...] = ()
    times: tuple[Tick, ...] = ()
    values: tuple[Tick, ...] = ()
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    baseline: int = _HEIGHT - _BOTTOM

    @property
    def is_empty(self) -> bool:
        return not (self.rectangles or self.lines)


def stacked_bars(points: Sequence[tuple[str, Mapping[str, int]]]) -> Chart:
    """Return a bar for each point, (label, number by kind); the first kind is at the bottom."""
    most = max((sum(numbers.values()) for _, numbers in points), default=0)
    if not most:
        return Chart()
    top, step = _nice(most), _PLOT_WIDTH / len(points)
    return Chart(rectangles=tuple(_rectangles(points, top, step)), times=_times(points, step), values=_values(top, str))


def value_lines(points: Sequence[tuple[str, Sequence[float | None]]]) -> Chart:
    """Return a line for each of the points' values, (label, values in seconds); None: nothing is known there."""
    known = [value for _, values in points for value in values if value is not None]
    if not known:
        return Chart()
    top, step = _nice(max(known) or 1), _PLOT_WIDTH / len(points)
    lines = []
    for column in range(len(points[0][1])):
        line = [
            f"{_LEFT + (number + 0.5) * step:.1f},{_y(value, top):.1f}"
            for number, (_, values) in enumerate(points)
            if (value := values[column]) is not None
        ]
        # A line to itself is a dot; one of a single point is not drawn.
        lines.append(" ".join(line * 2 if len(line) == 1 else line))
    return Chart(lines=tuple(lines), times=_times(points, step), values=_values(top, lambda value: f"{value:g} s"))


def _rectangles(points: Sequence[tuple[str, Mapping[str, int]]], top: float, step: float) -> Iterator[Rectangle]:
    for number, (label, numbers) in enumerate(points):
        below = 0
        for kind, value in numbers.items():
            if value:
                y = _y(below + value, top)
                yield Rectangle(
                    x=round(_LEFT + number * step + step * 0.1, 1),
                    y=round(y, 1),
                    width=round(step * 0.8, 1),
                    height=round(_y(below, top) - y, 1),
                    kind=kind,
                    title=f"{label}: {value} {kind}",
                )
                below += value


def _times(points: Sequence[tuple[str, object]], step: float) -> tuple[Tick, ...]:
    every = max(1, len(points) // _TIME_LABELS)
    return tuple(
        Tick(at=round(_LEFT + number * step, 1), label=label)
        for number, (label, _) in enumerate(points)
        # Not one that would stand out of the chart.
        if number % every == 0 and number * step < _PLOT_WIDTH - _LEFT
    )


def _values(top: float, label: Callable[[float], str]) -> tuple[Tick, ...]:
    return tuple(Tick(at=round(_y(value, top), 1), label=label(value)) for value in (0, _whole(top / 2), _whole(top)))


def _y(value: float, top: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - value / top)


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def _nice(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, … that is no less."""
    size = 1.0
    while size < value:
        size *= 10
    while size / 10 >= value:
        size /= 10
    return next(size * share for share in (0.1, 0.2, 0.5, 1.0) if size * share >= value)

"""The map of a job's statuses as a picture (SVG), with the way that a job went and where it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..models import JOB_TRANSITIONS, JobStatus

_WIDTH, _HEIGHT = 104, 34
# The middle of each status, where edges cross least.
_PLACES = {
    JobStatus.PENDING: (62, 62),
    JobStatus.QUEUED: (252, 62),
    JobStatus.RUNNING: (452, 62),
    JobStatus.COMPLETED: (642, 62),
    JobStatus.RETRYING: (206, 152),
    JobStatus.FAILED: (452, 152),
    JobStatus.CANCELLED: (332, 242),
}
# Other than a straight line: where it starts and ends, from the middles, and the point that bends it.
_BENT = {
    (JobStatus.PENDING, JobStatus.RUNNING): ((0, -17), (0, -17), (250, -18)),
    (JobStatus.PENDING, JobStatus.CANCELLED): ((0, 17), (-52, 0), (80, 242)),
    (JobStatus.QUEUED, JobStatus.CANCELLED): ((30, 17), (-12, -17), (308, 150)),
    (JobStatus.RUNNING, JobStatus.CANCELLED): ((-34, 17), (12, -17), (380, 150)),
    (JobStatus.RETRYING, JobStatus.QUEUED): ((0, -17), (-28, 17), (212, 110)),
    (JobStatus.RETRYING, JobStatus.CANCELLED): ((10, 17), (-36, -17), (250, 200)),
    (JobStatus.FAILED, JobStatus.CANCELLED): ((-10, 17), (36, -17), (410, 200)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBox:
    """A status: the middle of its box, and whether the job is or was in it."""

    status: str
    label: str
    x: int
    y: int
    is_present: bool
    was_passed: bool

    @property
    def left(self) -> int:
        return self.x - _WIDTH // 2

    @property
    def top(self) -> int:
        return self.y - _HEIGHT // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StateArrow:
    """An edge of the map, as a path of SVG, and how often the job took it."""

    source: str
    target: str
    path: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePicture:
    """All of it; ``words``: the same for those who do not see it."""

    boxes: tuple[StateBox, ...]
    arrows: tuple[StateArrow, ...]
    words: str
    width: int = 704
    height: int = 268
    box_width: int = _WIDTH
    box_height: int = _HEIGHT


def state_picture(present: str, transitions: Iterable[tuple[str, str]]) -> StatePicture:
    """Return the picture of a job that took these transitions, (source, target) in their order."""
    way = list(transitions)
    taken = Counter(way)
    passed = [source for source, _ in way[:1]] + [target for _, target in way]
    boxes = (
        StateBox(
            status=status.value,
            label=str(status.label),
            x=x,
            y=y,
            is_present=status == present,
            was_passed=status in passed,
        )
        for status, (x, y) in _PLACES.items()
    )
    edges = [
        (JobStatus(str(source)), JobStatus(str(target)))
        for source, targets in JOB_TRANSITIONS.items()
        for target in targets
    ]
    # Those that were taken are drawn last, over the others.
    arrows = sorted(
        (
            StateArrow(source=source, target=target, path=_path(source, target), times=taken[source, target])
            for source, target in edges
        ),
        key=lambda arrow: arrow.times > 0,
    )
    words = " → ".join(str(JobStatus(status).label) for status in (passed or [present]))
    return StatePicture(boxes=tuple(boxes), arrows=tuple(arrows), words=words)


def _path(source: JobStatus, target: JobStatus) -> str:
    (x1, y1), (x2, y2) = _PLACES[source], _PLACES[target]
    if bent := _BENT.get((source, target)):
        (dx1, dy1), (dx2, dy2), (cx, cy) = bent
        return f"M{x1 + dx1} {y1 + dy1} Q{cx} {cy} {x2 + dx2} {y2 + dy2}"
    if y1 == y2:
        side = _WIDTH // 2 if x2 > x1 else -(_WIDTH // 2)
        return f"M{x1 + side} {y1} L{x2 - side} {y2}"
    half = _HEIGHT // 2 if y2 > y1 else -(_HEIGHT // 2)
    return f"M{x1} {y1 + half} L{x2} {y2 - half}"

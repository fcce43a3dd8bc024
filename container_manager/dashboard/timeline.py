"""How a job's time went: its transitions, each with how long it stayed there, and its attempts as bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from ..models import ContainerJob, JobAttempt, JobTransition

# The length of the longest bar, in units of its SVG.
_LONGEST = 600
# So that a short part is seen.
_LEAST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A transition; ``stayed``: how long the job then was in that status, None if it is there still."""

    transition: JobTransition
    stayed: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPart:
    """A part of an attempt: ``kind`` is queued, starting or running; ``is_open``: it goes on."""

    kind: str
    left: int
    width: int
    took: timedelta
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBar:
    """An attempt and its parts, all bars on one scale."""

    attempt: JobAttempt
    parts: tuple[BarPart, ...]
    total: timedelta


def steps(transitions: Sequence[JobTransition]) -> list[Step]:
    """Return the transitions, given in their order, with how long each status lasted."""
    return [
        Step(transition=transition, stayed=end.at - transition.at if end else None)
        for transition, end in zip_longest(transitions, transitions[1:])
    ]


def attempt_bars(
    job: ContainerJob, attempts: Sequence[JobAttempt], transitions: Sequence[JobTransition], *, now: datetime
) -> list[AttemptBar]:
    """Return a job's attempts, given in their order, as bars; ``now`` is where an open one ends for the present."""
    queued = _queued_times(job, transitions)
    found = [
        (attempt, list(_parts(attempt, queued.get(attempt.number, attempt.launched_at), now))) for attempt in attempts
    ]
    longest = max((sum((took for _, took, _ in parts), timedelta()) for _, parts in found), default=timedelta())
    return [_bar(attempt, parts, longest) for attempt, parts in found]


def _queued_times(job: ContainerJob, transitions: Sequence[JobTransition]) -> Mapping[int, datetime]:
    """Return for each attempt, by number, since when the job had been queued."""
    # A job that was enqueued began so; the journal has no row of that.
    found, since, number = dict[int, datetime](), job.created_at, 0
    for transition in transitions:
        if transition.to_status == job.Status.QUEUED:
            since = transition.at
        elif transition.to_status == job.Status.RUNNING:
            number += 1
            found[number] = since
    return found


def _parts(attempt: JobAttempt, queued_at: datetime, now: datetime) -> Iterator[tuple[str, timedelta, bool]]:
    """Yield the kind of each part, how long it took, and whether it goes on."""
    end = attempt.finished_at or max(now, attempt.launched_at)
    is_open = attempt.finished_at is None
    yield "queued", max(attempt.launched_at - queued_at, timedelta()), False
    if attempt.waiting_for and is_open:
        yield "starting", end - attempt.launched_at, True
        return
    started = min(attempt.launched_at + timedelta(seconds=attempt.waited_seconds), end)
    if started > attempt.launched_at:
        yield "starting", started - attempt.launched_at, False
    yield "running", end - started, is_open


def _bar(attempt: JobAttempt, parts: Sequence[tuple[str, timedelta, bool]], longest: timedelta) -> AttemptBar:
    drawn: list[BarPart] = []
    left = 0
    for kind, took, is_open in parts:
        width = max(_LEAST, round(_LONGEST * (took / longest))) if longest else _LEAST
        drawn.append(BarPart(kind=kind, left=left, width=width, took=took, is_open=is_open))
        left += width
    return AttemptBar(attempt=attempt, parts=tuple(drawn), total=sum((part.took for part in drawn), timedelta()))

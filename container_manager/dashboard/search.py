"""Pages of a search: each is found by an index, and examines a bounded number of rows.

What a search asks for beside the index that serves it (`container_manager.dashboard.search_walk`) is looked for among
the next `EXAMINED` rows of that index; the page says how far back that was, and its cursor goes on there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import UUID

from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from ..models import ContainerJob
from ..querysets import ContainerJobQuerySet
from .search_text import QUALIFIERS, Search, SearchError, parse
from .search_walk import SearchPosition, Walk, walk_of

__all__ = [
    "EXAMINED",
    "LIST_FIELDS",
    "PAGE_SIZE",
    "QUALIFIERS",
    "Count",
    "JobSearch",
    "Page",
    "Search",
    "SearchError",
    "parse",
]

PAGE_SIZE = 50
EXAMINED = 10_000
# All but what may be large, or is nobody's business in a list; in the order of the API's answers.
LIST_FIELDS = (
    *("id", "name", "status", "status_changed_at", "queue", "executor", "image", "priority", "labels", "created_at"),
    *("created_by", "scheduled_for", "queued_at", "launched_at", "completed_at", "attempt", "retry_count"),
    *("max_retries", "exit_code", "failure_reason", "worker", "origin", "status_version"),
)
# Which way, the segment, and there the row beyond which the page is.
_CURSOR = re.compile(r"([pn])([01])(?:\.(\d{1,17}))?(?:\.([0-9a-f]{32}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of jobs, without their command, environment and other large columns.

    ``next`` and ``previous`` are cursors, "" if there is no such page. ``searched_until``: how far back the search has
    come, if it left jobs unexamined that may match: the page may then have few rows or none, and ``next`` goes on.
    """

    rows: tuple[ContainerJob, ...] = ()
    next: str = ""
    previous: str = ""
    searched_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of jobs, counted up to a bound; as a text ``1,234`` or ``10,000+``."""

    number: int
    is_more: bool

    def __str__(self) -> str:
        return number_format(self.number, use_l10n=True, force_grouping=True) + ("+" if self.is_more else "")


class JobSearch:
    """A search in some jobs (`container_manager.dashboard.access.visible_jobs`); how it is served is found out once."""

    def __init__(self, jobs: ContainerJobQuerySet, search: Search) -> None:
        self._jobs, self._search = jobs, search

    @cached_property
    def _walk(self) -> Walk:
        return walk_of(self._jobs, self._search)

    def page(self, cursor: str = "", size: int = PAGE_SIZE) -> Page:
        """Return a page of the jobs that match, the newest first.

        With one finished status the last that finished is first. ``cursor``: "" for the first page, else `Page.next` or
        `Page.previous` of the same search. Raises SearchError for any other.
        """
        backward, position = _read_cursor(cursor, self._walk)
        rows, end, is_edge = _take(self._jobs.only(*LIST_FIELDS), self._walk, position, size, backward=backward)
        if backward and end is None:
            # All that is before: the first page, which may have room for more.
            return self.page("", size)
        places = [place for place, _ in rows]
        if backward:
            rows.reverse()
            return Page(
                rows=tuple(job for _, job in rows),
                next=_cursor("n", places[0] if places else end),
                previous=_cursor("p", end),
            )
        before = places[0] if places else end or SearchPosition(segment=len(self._walk.segments) - 1)
        return Page(
            rows=tuple(job for _, job in rows),
            next=_cursor("n", end),
            previous=_cursor("p", before if cursor else None),
            searched_until=_time_of(end, self._jobs.db) if is_edge and end else None,
        )

    def count(self, most: int = EXAMINED) -> Count:
        """Count the jobs that match, examining at most so many."""
        walk, number = self._walk, 0
        for segment in range(len(walk.segments)):
            edge = _edge(walk, segment, None, most, self._jobs.db, backward=False)
            rows = self._jobs.filter(walk.where(segment, edge=edge, backward=False), walk.rest)
            # The order keeps the planner at the index.
            number += rows.order_by(*walk.order(segment, backward=False))[: most + 1 - number].count()
            if edge is not None or number > most:
                return Count(number=min(number, most), is_more=True)
        return Count(number=number, is_more=False)

    def first_cursor(self) -> str:
        """Return the cursor of what is there now: the pages from there on have no job that comes later."""
        if self._walk.segments[0].by_time:
            return _cursor("n", SearchPosition(segment=0, at=timezone.now(), key=UUID(int=2**128 - 1)))
        newest = ContainerJob.objects.using(self._jobs.db).order_by("-pk").values_list("pk", flat=True).first()
        return _cursor("n", SearchPosition(segment=0, key=UUID(int=newest.int + 1) if newest else UUID(int=0)))

    def keys(self, cursor: str, size: int) -> tuple[list[UUID], str]:
        """Return the next keys, and the cursor of those after them, "" if there are none."""
        _backward, position = _read_cursor(cursor, self._walk)
        jobs = self._jobs.only("status_changed_at")
        rows, end, _is_edge = _take(jobs, self._walk, position, size, backward=False)
        return [job.pk for _, job in rows], _cursor("n", end)


def _take(
    jobs: ContainerJobQuerySet, walk: Walk, position: SearchPosition | None, size: int, *, backward: bool
) -> tuple[list[tuple[SearchPosition, ContainerJob]], SearchPosition | None, bool]:
    """Return rows from a position on, with their places; where they end, None if nothing is beyond; and whether that is
    because enough rows were examined.
    """
    rows: list[tuple[SearchPosition, ContainerJob]] = []
    for number in _numbers(walk, position, backward=backward):
        start = position if position is not None and position.segment == number else None
        edge = _edge(walk, number, start, EXAMINED, jobs.db, backward=backward)
        found = jobs.filter(walk.where(number, start=start, edge=edge, backward=backward), walk.rest)
        ordered = found.order_by(*walk.order(number, backward=backward))[: size + 1 - len(rows)]
        rows += [(walk.place(number, job), job) for job in ordered]
        if len(rows) > size:
            del rows[size:]
            return rows, rows[-1][0], False
        if edge is not None:
            return rows, edge, True
    return rows, None, False


def _numbers(walk: Walk, position: SearchPosition | None, *, backward: bool) -> Iterable[int]:
    last = len(walk.segments) - 1
    if backward:
        return range(last if position is None else position.segment, -1, -1)
    return range(0 if position is None else position.segment, last + 1)


def _edge(
    walk: Walk, number: int, start: SearchPosition | None, most: int, using: str, *, backward: bool
) -> SearchPosition | None:
    """Return the place of the last row to examine; None if the segment has no more than so many."""
    if not walk.is_windowed:
        return None
    beyond = ContainerJob.objects.using(using).filter(walk.where(number, start=start, backward=backward))
    ordered = beyond.order_by(*walk.order(number, backward=backward))
    names = ("status_changed_at", "pk") if walk.segments[number].by_time else ("pk",)
    # An offset, but a bounded one, into entries of the index alone.
    for row in ordered.values_list(*names)[most - 1 : most]:
        return SearchPosition(segment=number, at=row[0] if len(row) > 1 else None, key=row[-1])
    return None


def _cursor(direction: str, position: SearchPosition | None) -> str:
    if position is None:
        return ""
    at = "" if position.at is None else f".{(_aware(position.at) - _EPOCH) // timedelta(microseconds=1)}"
    return f"{direction}{position.segment}{at}" + (f".{position.key.hex}" if position.key else "")


def _read_cursor(cursor: str, walk: Walk) -> tuple[bool, SearchPosition | None]:
    """Return whether it leads backwards, and its place. Raises SearchError."""
    if not cursor:
        return False, None
    found = _CURSOR.fullmatch(cursor)
    if found and (number := int(found[2])) < len(walk.segments):
        key = UUID(found[4]) if found[4] else None
        # Without a row: the end of all that match.
        if walk.segments[number].by_time == bool(found[3]) if key else not found[3]:
            at = None
            if found[3]:
                at = _EPOCH + timedelta(microseconds=int(found[3]))
                at = at if _is_aware() else at.replace(tzinfo=None)
            return found[1] == "p", SearchPosition(segment=number, at=at, key=key)
    raise SearchError(_("This is no page of this search; begin with its first page."))


def _time_of(place: SearchPosition, using: str) -> datetime | None:
    if place.at is not None:
        return place.at
    found = ContainerJob.objects.using(using).filter(pk__in=[place.key]).values_list("created_at", flat=True)
    return found.first()


def _is_aware() -> bool:
    return timezone.is_aware(timezone.now())


def _aware(at: datetime) -> datetime:
    return at if timezone.is_aware(at) else at.replace(tzinfo=UTC)

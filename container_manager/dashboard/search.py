"""Pages of a search: each is found by an index, and examines a bounded number of rows.

A search is served by the first of these that applies:

- ids, beginnings of names, and what runs or retries: at most `_FEW` jobs, by their keys;
- one name: the index of names;
- one finished status: the index of finished jobs, the last that finished first;
- pending or queued: the index of waiting jobs;
- anything else: the primary key.

MariaDB lacks partial indexes, so there a status is served only if it has few jobs. What else a search asks for has no
index, since each index of jobs costs every claim and finish. It is looked for among the next `EXAMINED` rows of the
index that serves; the page says how far back that was, and its cursor goes on there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import BooleanField, F, Func, Lookup, Q, Value
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from ..models import FINISHED_STATUSES, ContainerJob, JobStatus
from ..querysets import ContainerJobQuerySet
from .search_text import QUALIFIERS, Search, SearchError, id_condition, name_condition, parse

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
_FEW = 1000
# Databases limit the terms of a UNION.
_CONDITIONS_AT_ONCE = 100
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A part of an index: its condition, and whether it is in order of ``status_changed_at``, else of the key."""

    where: Q
    by_time: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    """A place between two rows of a segment: beyond the row of this time and key; without a key, beyond all."""

    segment: int
    at: datetime | None = None
    key: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """How a search is served: parts of an index one after the other, and what is asked of their rows besides.

    ``is_windowed``: whether rows of the index may not match, so that only so many are examined.
    """

    segments: Sequence[_Segment]
    rest: Q
    is_windowed: bool

    def where(self, number: int, *, start: _Position | None = None, edge: _Position | None = None, backward: bool) -> Q:
        """Return the condition of a segment's rows beyond ``start`` and up to ``edge``, with that row."""
        segment = self.segments[number]
        condition = segment.where
        if start is not None and start.key is not None:
            condition &= _compared(segment, start, "gt" if backward else "lt")
        if edge is not None:
            condition &= _compared(segment, edge, "lte" if backward else "gte")
        return condition

    def order(self, number: int, *, backward: bool) -> tuple[str, ...]:
        names = ("status_changed_at", "pk") if self.segments[number].by_time else ("pk",)
        return names if backward else tuple(f"-{name}" for name in names)

    def place(self, number: int, job: ContainerJob) -> _Position:
        return _Position(
            segment=number, at=job.status_changed_at if self.segments[number].by_time else None, key=job.pk
        )


class _Holds(Lookup):
    """A condition as it is: a filter compares any expression but a lookup with True, which no index serves."""

    lookup_name = "holds"
    prepare_rhs = False

    def __init__(self, condition: Func) -> None:
        super().__init__(condition, True)

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        sql, params = self.process_lhs(compiler, connection)
        return sql, tuple(params)


class _RowComparison(Func):
    """``(a, b) < (x, y)``: with OR instead, a database reads all rows of an index before the place."""

    output_field = BooleanField()

    def __init__(self, *expressions: Any, operator: str) -> None:
        super().__init__(*expressions)
        self.operator = operator

    def as_sql(self, compiler: Any, connection: Any, **_options: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        parts = [compiler.compile(expression) for expression in self.source_expressions]
        a, b, x, y = (sql for sql, _ in parts)
        return f"({a}, {b}) {self.operator} ({x}, {y})", [value for _, values in parts for value in values]


class _Among(Func):
    """``status IN (…)`` as in the condition of a partial index: SQLite compares it word by word, without parameters."""

    output_field = BooleanField()

    def __init__(self, statuses: tuple[str, ...]) -> None:
        super().__init__(F("status"))
        self.statuses = statuses

    def as_sql(self, compiler: Any, connection: Any, **_options: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        column, params = compiler.compile(self.source_expressions[0])
        return f"{column} IN ({', '.join(repr(str(status)) for status in self.statuses)})", list(params)


_OPERATORS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_WAITING = (JobStatus.PENDING, JobStatus.QUEUED)


class JobSearch:
    """A search in some jobs (`container_manager.dashboard.access.visible_jobs`); how it is served is found out once."""

    def __init__(self, jobs: ContainerJobQuerySet, search: Search) -> None:
        self._jobs, self._search = jobs, search

    @cached_property
    def _walk(self) -> _Walk:
        return _walk(self._jobs, self._search)

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
        before = places[0] if places else end or _Position(segment=len(self._walk.segments) - 1)
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
            return _cursor("n", _Position(segment=0, at=timezone.now(), key=UUID(int=2**128 - 1)))
        newest = ContainerJob.objects.using(self._jobs.db).order_by("-pk").values_list("pk", flat=True).first()
        return _cursor("n", _Position(segment=0, key=UUID(int=newest.int + 1) if newest else UUID(int=0)))

    def keys(self, cursor: str, size: int) -> tuple[list[UUID], str]:
        """Return the next keys, and the cursor of those after them, "" if there are none."""
        _backward, position = _read_cursor(cursor, self._walk)
        jobs = self._jobs.only("status_changed_at")
        rows, end, _is_edge = _take(jobs, self._walk, position, size, backward=False)
        return [job.pk for _, job in rows], _cursor("n", end)


def _take(
    jobs: ContainerJobQuerySet, walk: _Walk, position: _Position | None, size: int, *, backward: bool
) -> tuple[list[tuple[_Position, ContainerJob]], _Position | None, bool]:
    """Return rows from a position on, with their places; where they end, None if nothing is beyond; and whether that is
    because enough rows were examined.
    """
    rows: list[tuple[_Position, ContainerJob]] = []
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


def _numbers(walk: _Walk, position: _Position | None, *, backward: bool) -> Iterable[int]:
    last = len(walk.segments) - 1
    if backward:
        return range(last if position is None else position.segment, -1, -1)
    return range(0 if position is None else position.segment, last + 1)


def _edge(
    walk: _Walk, number: int, start: _Position | None, most: int, using: str, *, backward: bool
) -> _Position | None:
    """Return the place of the last row to examine; None if the segment has no more than so many."""
    if not walk.is_windowed:
        return None
    beyond = ContainerJob.objects.using(using).filter(walk.where(number, start=start, backward=backward))
    ordered = beyond.order_by(*walk.order(number, backward=backward))
    names = ("status_changed_at", "pk") if walk.segments[number].by_time else ("pk",)
    # An offset, but a bounded one, into entries of the index alone.
    for row in ordered.values_list(*names)[most - 1 : most]:
        return _Position(segment=number, at=row[0] if len(row) > 1 else None, key=row[-1])
    return None


def _compared(segment: _Segment, place: _Position, lookup: str) -> Q:
    if not segment.by_time:
        return Q(**{f"pk__{lookup}": place.key})
    fields: list[Any] = [ContainerJob._meta.get_field(name) for name in ("status_changed_at", "id")]
    values = [Value(value, field) for value, field in zip((place.at, place.key), fields, strict=True)]
    return Q(_Holds(_RowComparison(F("status_changed_at"), F("id"), *values, operator=_OPERATORS[lookup])))


def _walk(jobs: ContainerJobQuerySet, search: Search) -> _Walk:
    using = jobs.db
    has_partial_indexes = connections[using].features.supports_partial_indexes
    keys = _few_keys(search, has_partial_indexes=has_partial_indexes, using=using)
    if keys is not None:
        # By key, so that no planner prefers to go through the index of all.
        all_of_it = search.condition(using=using)
        return _Walk(segments=[_Segment(where=Q(pk__in=keys))], rest=all_of_it, is_windowed=False)
    names, statuses = search.values("name"), search.values("status")
    times = {"created-after", "created-before"}
    served, segments = times, [_Segment(where=Q())]
    if len(names) == 1 and not names[0].endswith("*"):
        served, segments = {*times, "name"}, [_Segment(where=name_condition(names[0], using))]
    elif len(statuses) == 1 and has_partial_indexes:
        # First the one status: of the two, SQLite takes the first for its place in the index.
        group = FINISHED_STATUSES if statuses[0] in FINISHED_STATUSES else _WAITING
        where = Q(status=statuses[0]) & Q(_Holds(_Among(group)))
        if statuses[0] in FINISHED_STATUSES:
            # A job that was created as finished has no time.
            timed = _Segment(where=where & Q(status_changed_at__isnull=False), by_time=True)
            served, segments = {"status"}, [timed, _Segment(where=where & Q(status_changed_at=None))]
        elif statuses[0] in _WAITING:
            served, segments = {*times, "status"}, [_Segment(where=where)]
    if times <= served:
        bounds = search.only(*times).condition(using=using)
        segments = [_Segment(where=segment.where & bounds) for segment in segments]
    rest = search.without(*served)
    # Whatever a project's rule asks for has no index that we know of.
    is_windowed = bool(rest.terms) or bool(jobs.query.where)
    return _Walk(segments=segments, rest=rest.condition(using=using), is_windowed=is_windowed)


def _few_keys(search: Search, *, has_partial_indexes: bool, using: str) -> list[UUID] | None:
    """Return the keys of the jobs that some qualifier leaves, if an index finds them and they are few."""
    for conditions in _narrow(search, has_partial_indexes=has_partial_indexes, using=using):
        keys = _first_keys(conditions, using)
        if len(keys) <= _FEW:
            return sorted(keys)
    return None


def _first_keys(conditions: Sequence[tuple[Q, tuple[str, ...]]], using: str) -> set[UUID]:
    """Return the keys of jobs that meet any of these, one more than `_FEW` of each if there are so many."""
    jobs, found = ContainerJob.objects.using(using), set[UUID]()
    for first in range(0, len(conditions), _CONDITIONS_AT_ONCE):
        texts, params = [], list[Any]()
        for number, (condition, order) in enumerate(conditions[first : first + _CONDITIONS_AT_ONCE]):
            rows = jobs.filter(condition).order_by(*order).values_list("pk")[: _FEW + 1]
            # Written out, since the ORM's union takes no slices on SQLite.
            text, values = rows.query.get_compiler(using).as_sql()
            texts.append(f"SELECT * FROM ({text}) AS part{number}")
            params += values
        with connections[using].cursor() as cursor:
            cursor.execute(" UNION ALL ".join(texts), params)
            found.update(UUID(str(key)) for (key,) in cursor.fetchall())
    return found


def _narrow(search: Search, *, has_partial_indexes: bool, using: str) -> Iterator[list[tuple[Q, tuple[str, ...]]]]:
    """Yield, for each qualifier that an index serves, the conditions whose jobs together are all that may match.

    Apart, since one with OR or IN is served by no partial index. With the order that keeps the planner at the index.
    """
    if ids := search.values("id"):
        yield [(id_condition((value,)), ("pk",)) for value in ids]
    for word in search.values(""):
        by_name: tuple[Q, tuple[str, ...]] = (name_condition(f"{word}*", using), ())
        ids_too = id_condition((word,))
        yield [by_name, (ids_too, ("pk",))] if ids_too else [by_name]
    names = search.values("name")
    if len(names) > 1 or any(name.endswith("*") for name in names):
        yield [(name_condition(name, using), ()) for name in names]
    if workers := search.values("worker"):
        yield [(Q(status=JobStatus.RUNNING, worker=worker), ()) for worker in workers]
    statuses = search.values("status")
    if statuses and (not has_partial_indexes or {*statuses} <= {JobStatus.RUNNING, JobStatus.RETRYING}):
        yield [(Q(status=status), ()) for status in statuses]


def _cursor(direction: str, position: _Position | None) -> str:
    if position is None:
        return ""
    at = "" if position.at is None else f".{(_aware(position.at) - _EPOCH) // timedelta(microseconds=1)}"
    return f"{direction}{position.segment}{at}" + (f".{position.key.hex}" if position.key else "")


def _read_cursor(cursor: str, walk: _Walk) -> tuple[bool, _Position | None]:
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
            return found[1] == "p", _Position(segment=number, at=at, key=key)
    raise SearchError(_("This is no page of this search; begin with its first page."))


def _time_of(place: _Position, using: str) -> datetime | None:
    if place.at is not None:
        return place.at
    found = ContainerJob.objects.using(using).filter(pk__in=[place.key]).values_list("created_at", flat=True)
    return found.first()


def _is_aware() -> bool:
    return timezone.is_aware(timezone.now())


def _aware(at: datetime) -> datetime:
    return at if timezone.is_aware(at) else at.replace(tzinfo=UTC)

"""How a search is served: by which index, and which of its rows are beyond a place there.

A search is served by the first of these that applies:

- ids, beginnings of names, and what runs or retries: at most `_FEW` jobs, by their keys;
- one name: the index of names;
- one finished status: the index of finished jobs, the last that finished first;
- pending or queued: the index of waiting jobs;
- anything else: the primary key.

MariaDB lacks partial indexes, so there a status is served only if it has few jobs. What else a search asks for has no
index, since each index of jobs costs every claim and finish.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import F, Q, Value

from ..models import FINISHED_STATUSES, WAITING_STATUSES, ContainerJob, JobStatus
from ..querysets import ContainerJobQuerySet
from .search_sql import Among, Holds, RowComparison
from .search_text import Search, id_condition, name_condition

_FEW = 1000
# Databases limit the terms of a UNION.
_CONDITIONS_AT_ONCE = 100
_OPERATORS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of an index: its condition, and whether it is in order of ``status_changed_at``, else of the key."""

    where: Q
    by_time: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPosition:
    """A place between two rows of a segment: beyond the row of this time and key; without a key, beyond all."""

    segment: int
    at: datetime | None = None
    key: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How a search is served: parts of an index one after the other, and what is asked of their rows besides.

    ``is_windowed``: whether rows of the index may not match, so that only so many are examined.
    """

    segments: Sequence[Segment]
    rest: Q
    is_windowed: bool

    def where(
        self, number: int, *, start: SearchPosition | None = None, edge: SearchPosition | None = None, backward: bool
    ) -> Q:
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

    def place(self, number: int, job: ContainerJob) -> SearchPosition:
        return SearchPosition(
            segment=number, at=job.status_changed_at if self.segments[number].by_time else None, key=job.pk
        )


def walk_of(jobs: ContainerJobQuerySet, search: Search) -> Walk:
    """Return how a search in these jobs is served."""
    using = jobs.db
    has_partial_indexes = connections[using].features.supports_partial_indexes
    keys = _few_keys(search, has_partial_indexes=has_partial_indexes, using=using)
    if keys is not None:
        # By key, so that no planner prefers to go through the index of all.
        all_of_it = search.condition(using=using)
        return Walk(segments=[Segment(where=Q(pk__in=keys))], rest=all_of_it, is_windowed=False)
    names, statuses = search.values("name"), search.values("status")
    times = {"created-after", "created-before"}
    served, segments = times, [Segment(where=Q())]
    if len(names) == 1 and not names[0].endswith("*"):
        served, segments = {*times, "name"}, [Segment(where=name_condition(names[0], using))]
    elif len(statuses) == 1 and has_partial_indexes:
        # First the one status: of the two, SQLite takes the first for its place in the index.
        group = FINISHED_STATUSES if statuses[0] in FINISHED_STATUSES else WAITING_STATUSES
        where = Q(status=statuses[0]) & Q(Holds(Among(group)))
        if statuses[0] in FINISHED_STATUSES:
            # A job that was created as finished has no time.
            timed = Segment(where=where & Q(status_changed_at__isnull=False), by_time=True)
            served, segments = {"status"}, [timed, Segment(where=where & Q(status_changed_at=None))]
        elif statuses[0] in WAITING_STATUSES:
            served, segments = {*times, "status"}, [Segment(where=where)]
    if times <= served:
        bounds = search.only(*times).condition(using=using)
        segments = [Segment(where=segment.where & bounds) for segment in segments]
    rest = search.without(*served)
    # Whatever a project's rule asks for has no index that we know of.
    is_windowed = bool(rest.terms) or bool(jobs.query.where)
    return Walk(segments=segments, rest=rest.condition(using=using), is_windowed=is_windowed)


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


def _compared(segment: Segment, place: SearchPosition, lookup: str) -> Q:
    if not segment.by_time:
        return Q(**{f"pk__{lookup}": place.key})
    fields: list[Any] = [ContainerJob._meta.get_field(name) for name in ("status_changed_at", "id")]
    values = [Value(value, field) for value, field in zip((place.at, place.key), fields, strict=True)]
    return Q(Holds(RowComparison(F("status_changed_at"), F("id"), *values, operator=_OPERATORS[lookup])))

"""What happened in the queues over time, from the counts of minutes and hours; neither jobs nor journal are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import router
from django.db.models import F, Q, QuerySet, Sum
from django.utils import timezone

from ..jobs.histogram import EMPTY, Histogram
from ..models import RUN_COLUMNS, WAIT_COLUMNS, ContainerJob, QueueSpan
from ..store import database_now, minute_of

_MOST_STEPS = 10_000
_COLUMNS = (
    *("created", "queued", "started", "completed", "failed", "cancelled", "retried"),
    *("wait_seconds", "run_seconds", *WAIT_COLUMNS, *RUN_COLUMNS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What happened in a span of time that begins at ``start``; None: since statistics are kept.

    ``queued``: how often jobs were queued: new ones, and retries. ``started``: how many attempts began. ``failed``: how
    many attempts failed, with those that were ``retried``. ``wait``: of attempts that began, from when they were due.
    ``run``: of attempts that ended, however they did.
    """

    start: datetime | None
    queued: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    wait: Histogram = EMPTY
    run: Histogram = EMPTY


def activity(
    *,
    since: timedelta | datetime,
    step: timedelta | None = None,
    queue: str | None = None,
    now: datetime | None = None,
    using: str | None = None,
) -> list[Activity]:
    """Return what happened since a time, or for a time until now: in spans of ``step``, or in one.

    ``step``: whole minutes; the first span begins with a multiple of it, at or before ``since``, and the last one is
    not over yet. ``queue``: of this one; None: of all. ``now``: the time by the database's clock, where it is known.
    The last minute or so is not counted yet.
    Raises ValueError for a step that is not of whole minutes, and for more than 10,000 spans.
    """
    using = using or router.db_for_read(ContainerJob)
    last, first = _span(since, now or database_now(using=using))
    minutes = last + 1 - first if step is None else _whole_minutes(step)
    if step is not None:
        # So that a step of whole hours begins with one.
        first -= first % minutes
    if (last - first) // minutes >= _MOST_STEPS:
        raise ValueError(f"There are more than {_MOST_STEPS} spans of {step} since {since}; ask for a longer step.")
    rows = _since(first, using) if step is None else _since(first, using, step=minutes)
    if queue is not None:
        rows = rows.filter(queue=queue)
    # The minute at which the row's span begins.
    begin = F("minute") - (F("minute") - first) % minutes
    found = {row["begin"]: row for row in _summed(rows.annotate(begin=begin).values("begin"))}
    return [_activity(begin, found.get(begin, {})) for begin in range(first, last + 1, minutes)]


def activity_by_queue(*, since: timedelta | datetime | None, using: str | None = None) -> dict[str, Activity]:
    """Return by queue what happened since a time, or for a time until now; None: since statistics are kept."""
    using = using or router.db_for_read(ContainerJob)
    if since is None:
        totals = QueueSpan.objects.using(using).filter(length=QueueSpan.TOTAL)
        return {row["queue"]: _activity(None, row) for row in totals.order_by("queue").values("queue", *_COLUMNS)}
    _, first = _span(since, database_now(using=using))
    rows = _summed(_since(first, using).values("queue")).order_by("queue")
    return {row["queue"]: _activity(first, row) for row in rows}


def _span(since: timedelta | datetime, now: datetime) -> tuple[int, int]:
    """Return the minute of now and the first one."""
    first = minute_of(now - since if isinstance(since, timedelta) else since)
    return minute_of(now), max(1, first)


def _whole_minutes(step: timedelta) -> int:
    minutes, rest = divmod(step, timedelta(minutes=1))
    if rest or minutes < 1:
        raise ValueError(f"A step is of whole minutes, one or more, not {step}.")
    return minutes


def _since(first: int, using: str, *, step: int = QueueSpan.HOUR) -> QuerySet[QueueSpan]:
    """Return rows that add up to what happened since a minute, and do so too in spans of ``step`` minutes from there.

    Hours serve where they are whole, and minutes before the first of them.
    """
    rows = QueueSpan.objects.using(using)
    if step % QueueSpan.HOUR:
        return rows.filter(length=QueueSpan.MINUTE, minute__gte=first)
    hour = first + -first % QueueSpan.HOUR
    return rows.filter(
        Q(length=QueueSpan.HOUR, minute__gte=hour) | Q(length=QueueSpan.MINUTE, minute__gte=first, minute__lt=hour)
    )


def _summed(rows: Any) -> Any:
    return rows.annotate(**{f"sum_{name}": Sum(name) for name in _COLUMNS}).order_by()


def _activity(begin: int | None, row: Mapping[str, Any]) -> Activity:
    def value(name: str) -> Any:
        return row.get(f"sum_{name}", row.get(name)) or 0

    def histogram(kind: str, columns: list[str]) -> Histogram:
        counts = tuple(int(value(name)) for name in columns)
        return Histogram(counts=counts, seconds=float(value(f"{kind}_seconds")))

    return Activity(
        start=None if begin is None else _begin_of(begin),
        queued=int(value("created") + value("queued")),
        **{name: int(value(name)) for name in ("started", "completed", "failed", "cancelled", "retried")},
        wait=histogram("wait", WAIT_COLUMNS),
        run=histogram("run", RUN_COLUMNS),
    )


def _begin_of(minute: int) -> datetime:
    at = datetime.fromtimestamp(minute * 60, UTC)
    return at if settings.USE_TZ else timezone.make_naive(at)

"""Count what waits and what runs, as far as a limit: indexes serve it, and it costs no more with more jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections

from ..models import FINISHED_STATUSES, WAITING_STATUSES, JobStatus
from .clock import django_time
from .sql import store_sql
from .sql.lanes import LaneSQL, batches
from .sql.statements import StoreSQL

_JOB = "container_manager_containerjob"
_FINISHED, _WAITING = (
    ", ".join(f"'{status}'" for status in statuses) for statuses in (FINISHED_STATUSES, WAITING_STATUSES)
)
# For each of 101 priorities jobs that are due and others, in one statement: SQLite takes a UNION of 500.
_LANES_AT_ONCE = 250


@dataclass(slots=True, kw_only=True)
class Backlog:
    """The queued jobs of an executor and a queue: how many are due, how many are not yet, both as far as a limit.

    ``since``: from when on the first of those that are due is due; ``seconds``: for how long it has been.
    """

    executor: str
    queue: str
    due: int = 0
    later: int = 0
    since: datetime | None = None
    seconds: float | None = None


class _Lane(NamedTuple):
    """Queued jobs that stand together in an index: the first of them are to be counted."""

    waiting: Backlog
    where: str
    params: Sequence[Any]
    scheduled: bool
    limit: int
    is_due: bool = True


class _Part(NamedTuple):
    """Jobs of a status that stand together in an index, in its order."""

    status: JobStatus
    served_by: str
    condition: str
    order: str


def backlog(*, limit: int, using: str) -> list[Backlog]:
    """Return what waits, by executor and queue. It costs a look at each, and none at a job beyond the limit."""
    sql, found, lanes = store_sql(connections[using]), dict[tuple[str, str], Backlog](), list[_Lane]()
    where = "j.executor = %s AND j.queue = %s AND j.scheduled_for"
    with connections[using].cursor() as cursor:
        for executor, queue, priority in sql.queued_lanes(cursor):
            place = (executor, queue)
            waiting = found.setdefault(place, Backlog(executor=executor, queue=queue))
            if priority is None:
                lanes.append(_Lane(waiting, f"{where} IS NULL", place, scheduled=False, limit=limit))
                continue
            for sign, is_due in (("<=", True), (">", False)):
                text, params = f"{where} {sign} {sql.now} AND j.priority = %s", (*place, priority)
                lanes.append(_Lane(waiting, text, params, scheduled=True, limit=limit, is_due=is_due))
        full = [lane.waiting for lane in _count(sql, cursor, lanes) if not lane.scheduled]
        # What was counted of these has the highest priorities; what waits longest may have a lower one.
        priorities = sql.priorities(cursor, [(waiting.executor, waiting.queue) for waiting in full])
        text = f"{where} IS NULL AND j.priority = %s"
        _count(
            sql,
            cursor,
            [_Lane(found[lane[:2]], text, lane, scheduled=False, limit=1) for lane in priorities],
        )
    for waiting in found.values():
        waiting.due, waiting.later = min(limit, waiting.due), min(limit, waiting.later)
    return [waiting for waiting in found.values() if waiting.due or waiting.later]


def _count(sql: StoreSQL, cursor: Any, lanes: Sequence[_Lane]) -> list[_Lane]:
    """Add up what waits in lanes; return those that have as many jobs as they are counted to, or more."""
    full = []
    for batch in batches(lanes, _LANES_AT_ONCE):
        texts, params = [], list[Any]()
        for number, lane in enumerate(batch):
            index, since = ("cm_job_scheduled", "scheduled_for") if lane.scheduled else ("cm_job_claim", "queued_at")
            by_priority = "j.priority = " not in lane.where
            rows = (
                f"SELECT j.{since} AS since FROM {_JOB} j {sql.lanes.force.format(index)} WHERE j.status = 'queued' "
                f"AND {lane.where} ORDER BY {'j.priority DESC, ' if by_priority else ''}j.{since}, j.id LIMIT %s"
            )
            seconds = sql.seconds_since("MIN(since)")
            texts.append(f"SELECT {number}, COUNT(*), MIN(since), {seconds} FROM ({rows}) AS lane{number}")
            params += [*lane.params, lane.limit]
        cursor.execute(" UNION ALL ".join(texts), params)
        for number, count, since, seconds in cursor.fetchall():
            lane, waiting = batch[number], batch[number].waiting
            if lane.is_due:
                waiting.due += count
                if count:
                    first = django_time(since, using=cursor.db.alias)
                    waiting.since = min(first, waiting.since or first)
                    waiting.seconds = max(waiting.seconds or 0.0, float(seconds))
            else:
                waiting.later += count
            if count == lane.limit:
                full.append(lane)
    return full


def status_counts(*, limit: int, using: str) -> dict[JobStatus, int]:
    """Return how many jobs have each status, as far as a limit, in one statement."""
    sql = store_sql(connections[using])
    found: Counter[JobStatus] = Counter()
    parts = list(_parts(sql.lanes))
    counts = [
        f"(SELECT COUNT(*) FROM ({_rows(sql.lanes, part, '1 AS one')}) AS part{n})" for n, part in enumerate(parts)
    ]
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(counts)}", [limit] * len(parts))
        for part, count in zip(parts, cursor.fetchone(), strict=True):
            found[part.status] += count
    return {status: min(limit, found[status]) for status in JobStatus}


def queue_counts(*, since: timedelta, limit: int, using: str) -> Mapping[tuple[str, JobStatus], int]:
    """Return by queue and status how many jobs run, wait for a retry, or finished within a time.

    Of each status as many jobs are looked at as ``limit`` says; of finished ones these are the newest.
    """
    sql, texts, params = store_sql(connections[using]), list[str](), list[Any]()
    for part in _parts(sql.lanes):
        if part.status in WAITING_STATUSES:
            continue
        if part.status in FINISHED_STATUSES:
            recent = f"{part.condition} AND j.status_changed_at >= {sql.after('%s')}"
            part = part._replace(condition=recent, order=f"{part.order} DESC")  # noqa: PLW2901
            params.append(-since.total_seconds())
        rows = _rows(sql.lanes, part, f"j.queue, '{part.status.value}' AS status")
        texts.append(f"SELECT queue, status, COUNT(*) FROM ({rows}) AS {part.status.value} GROUP BY queue, status")
        params.append(limit)
    with connections[using].cursor() as cursor:
        cursor.execute(" UNION ALL ".join(texts), params)
        return {(queue, JobStatus(status)): count for queue, status, count in cursor.fetchall()}


def _parts(lanes: LaneSQL) -> Iterator[_Part]:
    # Without partial indexes that of scheduled jobs has the others too.
    scheduled = ("cm_job_scheduled", "j.executor") if lanes.partial else ("cm_job_claim", "j.scheduled_for")
    # IN as in the conditions of the partial indexes, which SQLite compares word by word; after the one status, since
    # SQLite takes the first of the two for its place in the index.
    yield _Part(JobStatus.PENDING, "cm_job_waiting", f"j.status = 'pending' AND j.status IN ({_WAITING})", "j.id")
    yield _Part(JobStatus.QUEUED, "cm_job_claim", "j.status = 'queued' AND j.scheduled_for IS NULL", "j.executor")
    queued = "j.status = 'queued' AND j.scheduled_for IS NOT NULL"
    yield _Part(JobStatus.QUEUED, scheduled[0], queued, scheduled[1])
    yield _Part(JobStatus.RUNNING, "cm_job_running", "j.status = 'running'", "j.worker")
    yield _Part(JobStatus.RETRYING, "cm_job_retrying", "j.status = 'retrying'", "j.scheduled_for")
    for status in FINISHED_STATUSES:
        condition = f"j.status = '{status.value}' AND j.status IN ({_FINISHED})"
        yield _Part(status, "cm_job_finished", condition, "j.status_changed_at")


def _rows(lanes: LaneSQL, part: _Part, columns: str) -> str:
    """Return a SELECT of the first jobs of a part; its last parameter is how many."""
    index = lanes.force.format(part.served_by)
    return f"SELECT {columns} FROM {_JOB} j {index} WHERE {part.condition} ORDER BY {part.order} LIMIT %s"

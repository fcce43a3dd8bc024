"""Count the jobs of each queue as they are now, as far as a limit, so that millions of them cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import router

from ..models import FINISHED_STATUSES, ContainerJob, JobStatus
from ..store import backlog, queue_counts, status_counts, unserved
from .pauses import paused_queues

COUNT_LIMIT = 10_000


@dataclass(slots=True, kw_only=True)
class QueueStatistics:
    """One queue. ``queued`` are due, ``scheduled`` are not due yet; ``oldest``: since when the first of them is due,
    ``oldest_seconds`` for how long.

    A count that is the limit means that many or more. ``unserved``: the executors that its queued jobs name and no live
    worker serves; these jobs wait.
    """

    queue: str
    queued: int = 0
    scheduled: int = 0
    running: int = 0
    retrying: int = 0
    oldest: datetime | None = None
    oldest_seconds: float = 0.0
    paused: bool = False
    unserved: list[str] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)


def queue_statistics(
    *, since: timedelta = timedelta(hours=1), limit: int = COUNT_LIMIT, using: str | None = None
) -> dict[str, QueueStatistics]:
    """Return the queues by name; ``finished`` counts by status the jobs that finished within ``since``.

    All counts go as far as ``limit``. Of running, retrying and finished jobs as many are looked at in all queues
    together; of finished ones these are the newest. What happened before is told by `activity`.
    """
    using = using or router.db_for_read(ContainerJob)
    found = dict[str, QueueStatistics]()

    def entry(name: str) -> QueueStatistics:
        return found.setdefault(name, QueueStatistics(queue=name))

    waiting = backlog(limit=limit, using=using)
    for lane in waiting:
        statistics = entry(lane.queue)
        statistics.queued = min(limit, statistics.queued + lane.due)
        statistics.scheduled = min(limit, statistics.scheduled + lane.later)
        if lane.since is not None:
            statistics.oldest = min(lane.since, statistics.oldest or lane.since)
            statistics.oldest_seconds = max(statistics.oldest_seconds, lane.seconds or 0.0)
    for (name, status), count in queue_counts(since=since, limit=limit, using=using).items():
        if status in FINISHED_STATUSES:
            entry(name).finished[status.value] = count
        else:
            setattr(entry(name), status.value, count)
    for name in paused_queues(using=using):
        entry(name).paused = True
    for executor, name in unserved(sorted((lane.executor, lane.queue) for lane in waiting), using=using):
        entry(name).unserved.append(executor)
    return found


def counts_by_status(*, limit: int = COUNT_LIMIT, using: str | None = None) -> dict[JobStatus, int]:
    """Return how many jobs have each status; a count that is ``limit`` means that many or more. One statement."""
    return status_counts(limit=limit, using=using or router.db_for_read(ContainerJob))

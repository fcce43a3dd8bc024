"""Count the jobs of each queue; finished jobs of a recent period only, so that millions of them cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import router
from django.db.models import Count, Min, Q

from ..models import FINISHED_STATUSES, ContainerJob, JobStatus
from ..store import database_now, unserved
from .pauses import paused_queues

_UNFINISHED = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRYING)


@dataclass(slots=True, kw_only=True)
class QueueStatistics:
    """One queue. ``queued`` are due, ``scheduled`` are not due yet; ``oldest``: when the first due job was queued.

    ``unserved``: the executors that its queued jobs name and no live worker serves; these jobs wait.
    """

    queue: str
    queued: int = 0
    scheduled: int = 0
    running: int = 0
    retrying: int = 0
    oldest: datetime | None = None
    paused: bool = False
    unserved: list[str] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)


def queue_statistics(*, since: timedelta = timedelta(hours=1), using: str | None = None) -> dict[str, QueueStatistics]:
    """Return the queues by name; ``finished`` counts by status the jobs that finished within ``since``."""
    using = using or router.db_for_read(ContainerJob)
    now = database_now(using=using)
    jobs, found = ContainerJob.objects.using(using).order_by(), dict[str, QueueStatistics]()

    def entry(name: str) -> QueueStatistics:
        return found.setdefault(name, QueueStatistics(queue=name))

    due = Q(scheduled_for=None) | Q(scheduled_for__lte=now)
    waiting, named = jobs.filter(status__in=_UNFINISHED).values("queue", "status", "executor"), []
    for row in waiting.annotate(all=Count("pk"), due=Count("pk", filter=due), oldest=Min("queued_at", filter=due)):
        statistics = entry(row["queue"])
        if row["status"] == JobStatus.QUEUED:
            named.append((row["executor"], row["queue"]))
            statistics.queued += row["due"]
            statistics.scheduled += row["all"] - row["due"]
            statistics.oldest = min(filter(None, (statistics.oldest, row["oldest"])), default=None)
        else:
            setattr(statistics, row["status"], getattr(statistics, row["status"]) + row["all"])
    lately = jobs.filter(status__in=FINISHED_STATUSES, status_changed_at__gte=now - since)
    for ended in lately.values("queue", "status").annotate(all=Count("pk")):
        entry(ended["queue"]).finished[ended["status"]] = ended["all"]
    for name in paused_queues(using=using):
        entry(name).paused = True
    for executor, name in unserved(sorted(named), using=using):
        entry(name).unserved.append(executor)
    return found

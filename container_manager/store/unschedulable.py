"""Find queued jobs that no live worker will claim."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import timedelta

from ..models import ContainerJob, Worker
from ..querysets import ContainerJobQuerySet, DatabaseNow
from .clock import database_now

UNSCHEDULABLE_BATCH = 100
# An executor and a queue: what a job names, and a worker serves.
Destination = tuple[str, str]


def unserved_destinations(*, using: str) -> list[Destination]:
    """Return the executors and queues that queued jobs name and no live worker serves, sorted."""
    return unserved(_destinations(using), using=using)


def unserved(destinations: Iterable[Destination], *, using: str) -> list[Destination]:
    """Return those that no live worker serves, in their order."""
    workers = Worker.objects.using(using).filter(lease_expires_at__gte=DatabaseNow())
    served = list(workers.values_list("executors", "queues"))
    return [
        (executor, queue)
        for executor, queue in destinations
        if not any(executor in executors and (not queues or queue in queues) for executors, queues in served)
    ]


def unschedulable_jobs(
    *, executors: Collection[str], queues: Collection[str] | None, older_than_seconds: float, using: str
) -> list[tuple[uuid.UUID, str, str]]:
    """Return (id, executor, queue) of a batch of due jobs whose executor or queue nobody knows.

    ``executors`` and ``queues`` (None: any) are those of the settings; what live workers serve is known too.
    ``older_than_seconds``: how long a job must have been queued.
    """
    before = database_now(using=using) - timedelta(seconds=older_than_seconds)
    for executor, queue in unserved_destinations(using=using):
        if executor in executors and (queues is None or queue in queues):
            continue
        due = ContainerJob.objects.using(using).ready().filter(executor=executor, queue=queue, queued_at__lte=before)
        if found := list(due.order_by().values_list("pk", "executor", "queue")[:UNSCHEDULABLE_BATCH]):
            return found
    return []


def _destinations(using: str) -> list[Destination]:
    """Return what queued jobs name: a probe for each name, which an index answers, instead of a scan of the backlog.

    Jobs with a schedule and those without stand in different indexes. Backwards: at the beginning of an index are the
    entries of jobs that were claimed lately.
    """
    queued, found = ContainerJob.objects.using(using).filter(status="queued"), set[Destination]()
    for jobs in (queued.filter(scheduled_for=None), queued.filter(scheduled_for__isnull=False)):
        executor: str | None = None
        while (executor := _last(jobs, "executor", before=executor)) is not None:
            queue: str | None = None
            while (queue := _last(jobs.filter(executor=executor), "queue", before=queue)) is not None:
                found.add((executor, queue))
    return sorted(found)


def _last(jobs: ContainerJobQuerySet, column: str, *, before: str | None) -> str | None:
    jobs = jobs.filter(**{f"{column}__lt": before}) if before is not None else jobs
    return jobs.order_by(f"-{column}").values_list(column, flat=True).first()

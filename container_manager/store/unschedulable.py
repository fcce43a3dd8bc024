"""Find queued jobs that no live worker will claim."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import timedelta

from django.db import connections

from ..models import ContainerJob, JobStatus, Worker
from ..querysets import DatabaseNow
from .clock import database_now
from .sql import store_sql

UNSCHEDULABLE_BATCH = 100
# An executor and a queue: what a job names, and a worker serves.
Destination = tuple[str, str]


def unserved_destinations(*, using: str) -> list[Destination]:
    """Return the executors and queues that queued jobs name and no live worker serves, sorted."""
    with connections[using].cursor() as cursor:
        found = store_sql(connections[using]).queued_destinations(cursor)
    return unserved(sorted(found), using=using)


def unserved(destinations: Iterable[Destination], *, using: str) -> list[Destination]:
    """Return those that no live worker serves, in their order."""
    workers = list(Worker.objects.live().using(using).only("executors", "queues"))
    return [destination for destination in destinations if not any(worker.serves(*destination) for worker in workers)]


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
        jobs = ContainerJob.objects.using(using).filter(
            status=JobStatus.QUEUED, executor=executor, queue=queue, queued_at__lte=before
        )
        # Jobs with a schedule and those without stand in different indexes: no database uses both for an OR.
        for due in (jobs.filter(scheduled_for=None), jobs.filter(scheduled_for__lte=DatabaseNow())):
            if found := list(due.values_list("pk", "executor", "queue")[:UNSCHEDULABLE_BATCH]):
                return found
    return []

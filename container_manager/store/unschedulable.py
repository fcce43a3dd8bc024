"""Find queued jobs that no worker will ever claim."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import timedelta

from django.utils import timezone

from ..models import ContainerJob, JobStatus, Worker
from .claiming import due_lanes, queued_executors

_BATCH = 100


def unschedulable_jobs(
    *, executors: Collection[str], queues: Collection[str] | None, older_than_seconds: float, using: str
) -> list[tuple[uuid.UUID, str, str]]:
    """Return (id, executor, queue) of a batch of due jobs whose executor or queue nobody knows.

    ``executors`` and ``queues`` (None: any) are those of the settings; those that live workers serve are known too.
    ``older_than_seconds``: how long a job must have been queued, so that a deployment can introduce a new name step by
    step.
    """
    executors, named = set(executors), None if queues is None else set(queues)
    for worker in Worker.objects.using(using).filter(lease_expires_at__gte=timezone.now()):
        executors |= set(worker.executors)
        if named is not None:
            named |= set(worker.queues)
    now = timezone.now()
    old = ContainerJob.objects.using(using).filter(
        status=JobStatus.QUEUED, queued_at__lte=now - timedelta(seconds=older_than_seconds)
    )
    found: list[tuple[uuid.UUID, str, str]] = []
    # A look per executor and queue: the jobs of those that are known are not read.
    for lane in due_lanes(executors=queued_executors(using=using), using=using):
        if lane.executor in executors and (named is None or lane.queue in named):
            continue
        jobs = old.filter(executor=lane.executor, queue=lane.queue)
        if lane.priority is None:
            jobs = jobs.filter(scheduled_for=None)
        else:
            jobs = jobs.filter(priority=lane.priority, scheduled_for__lte=now)
        found += jobs.values_list("pk", "executor", "queue")[: _BATCH - len(found)]
    return found

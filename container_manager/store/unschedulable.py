"""Find queued jobs that no worker will ever claim."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import timedelta

from django.utils import timezone

from ..models import ContainerJob, Worker
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
    before = timezone.now() - timedelta(seconds=older_than_seconds)
    # A look per executor and queue: the jobs of those that are known are not read.
    lanes = due_lanes(executors=queued_executors(using=using), using=using)
    unknown = {
        (lane.executor, lane.queue)
        for lane in lanes
        if lane.executor not in executors or (named is not None and lane.queue not in named)
    }
    found: list[tuple[uuid.UUID, str, str]] = []
    for executor, queue in sorted(unknown):
        jobs = ContainerJob.objects.using(using).ready().filter(executor=executor, queue=queue, queued_at__lte=before)
        found += [(pk, executor, queue) for pk in jobs.values_list("pk", flat=True)[: _BATCH - len(found)]]
    return found

"""Find queued jobs that no worker will ever claim."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from ..models import ContainerJob, Worker

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
    known = Q(executor__in=executors)
    if named is not None:
        known &= Q(queue__in=named)
    before = timezone.now() - timedelta(seconds=older_than_seconds)
    jobs = ContainerJob.objects.using(using).ready().filter(queued_at__lte=before).exclude(known)
    return list(jobs.values_list("pk", "executor", "queue")[:_BATCH])

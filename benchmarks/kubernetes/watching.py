"""What a worker costs that watches many pods in which nothing happens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.images import IMAGE

from ..docker.waiting import eventually
from ..queue.idle import cpu_seconds
from ..queue.pickup import running_worker
from .api_requests import ApiRequests

_SETTLE_SECONDS = 5.0
_START_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """The share of one core that a worker uses, its requests a second, and its memory in bytes."""

    share: float
    requests: float
    memory: int


def measure_watching(administrator: Any, count: int, seconds: float) -> Watching:
    """Have a worker watch so many running pods. They are ended."""
    from container_manager.models import ContainerJob, JobAttempt
    from container_manager.queue import enqueue_many

    attempts = JobAttempt.objects.filter(finished_at=None)
    with running_worker("--slots", str(count)) as process:
        jobs = enqueue_many(ContainerJob(command="sleep 100000", image=IMAGE, grace_seconds=1) for _ in range(count))
        eventually(lambda: attempts.exclude(handle="").count() == count, seconds=_START_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        requests, cpu, start = ApiRequests.counted(administrator), cpu_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        taken = time.monotonic() - start
        found = Watching(
            share=(cpu_seconds(process.pid) - cpu) / taken,
            requests=(ApiRequests.counted(administrator) - requests).own / taken,
            memory=_memory(process.pid),
        )
        ContainerJob.objects.filter(pk__in=[job.pk for job in jobs]).update(status="cancelled")
        eventually(lambda: not attempts.exists(), seconds=_START_SECONDS)
    return found


def _memory(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)

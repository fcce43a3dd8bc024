"""What a worker costs that watches many containers in which nothing happens."""

from __future__ import annotations

import time

from tests.docker.image import IMAGE

from ..queue.idle import cpu_seconds
from ..queue.pickup import running_worker
from .waiting import eventually

_SETTLE_SECONDS = 5.0
_START_SECONDS = 600.0


def measure_watching(count: int, seconds: float) -> float:
    """Return the share of one core that a worker uses beside so many running containers. They are left running."""
    from container_manager.models import ContainerJob, JobAttempt
    from container_manager.queue import enqueue_many

    started = JobAttempt.objects.filter(finished_at=None).exclude(handle="")
    with running_worker("--slots", str(count)) as process:
        enqueue_many(ContainerJob(command="sleep 100000", image=IMAGE) for _ in range(count))
        eventually(lambda: started.count() == count, seconds=_START_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        before, start = cpu_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(process.pid) - before) / (time.monotonic() - start)

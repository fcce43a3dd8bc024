"""How many containers a second are created, started, awaited and removed: by the worker, and by the raw API."""

from __future__ import annotations

import time

from tests.docker.image import IMAGE

from ..queue.pickup import running_worker
from .raw import RawDocker
from .waiting import eventually

_COMMAND = "true"
_SLOTS = 16


def measure_throughput(raw: RawDocker, *, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return containers per second of the worker and of the raw API, one figure a round; they take turns."""
    from container_manager.executors.docker import DockerExecutor

    threads = DockerExecutor.capabilities.launch_threads
    ours, theirs = [], []
    with running_worker("--slots", str(_SLOTS)):
        for _ in range(rounds):
            start = time.monotonic()
            raw.run_many(_COMMAND, count=count, threads=threads)
            theirs.append(count / (time.monotonic() - start))
            start = time.monotonic()
            _run_queued(raw, count)
            ours.append(count / (time.monotonic() - start))
    return ours, theirs


def _run_queued(raw: RawDocker, count: int) -> None:
    from container_manager.models import ContainerJob
    from container_manager.queue import enqueue_many

    done = ContainerJob.objects.filter(status="completed")
    before = done.count()
    enqueue_many(ContainerJob(command=_COMMAND, image=IMAGE) for _ in range(count))
    eventually(lambda: done.count() == before + count)
    # The raw API's figure has the removals, too.
    eventually(lambda: not raw.api.containers(all=True, quiet=True))

"""How long an enqueued job waits for an idle worker, beside a plain fork and exec."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .commands import worker_command

# The command prints when it began to run, in nanoseconds.
_CLOCK = ("date", "+%s%N")
_START_SECONDS = 30
_JOB_SECONDS = 10


@contextmanager
def running_worker(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker as a user would, from when it has its lease."""
    from container_manager.store import live_workers

    process = subprocess.Popen(worker_command(*options))
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not live_workers(using="default"):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("The worker did not start.")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=_START_SECONDS)


def measure_pickup(samples: int) -> tuple[float, float]:
    """Return the median seconds until a command runs: from its enqueueing, and from a plain fork and exec."""
    queued, plain = [], []
    with running_worker():
        for _ in range(samples):
            # So long that the worker has fallen back to waiting.
            time.sleep(0.15)
            plain.append(_plain())
            queued.append(_queued())
    # The first also starts the warden.
    return statistics.median(queued[1:]), statistics.median(plain[1:])


def _plain() -> float:
    start = time.time_ns()
    output = subprocess.run(_CLOCK, stdout=subprocess.PIPE, check=True).stdout
    return (int(output) - start) / 1e9


def _queued() -> float:
    from container_manager.models import ContainerJob, JobLog
    from container_manager.queue import enqueue

    start = time.time_ns()
    job = enqueue(command=" ".join(_CLOCK))
    deadline = time.monotonic() + _JOB_SECONDS
    while job.status != ContainerJob.Status.COMPLETED:
        if time.monotonic() > deadline:
            raise RuntimeError(f"The job is still {job.status}.")
        time.sleep(0.02)
        job.refresh_from_db()
    return (int(bytes(JobLog.objects.get(attempt__job=job).data)) - start) / 1e9

"""How long it takes until a container has started: from the claim of its job, and by the raw API."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime

from tests.docker.image import IMAGE

from ..queue.pickup import running_worker
from .raw import RawDocker
from .waiting import eventually

# Long enough to be asked about while it runs.
_COMMAND = "sleep 1"
_PAUSE_SECONDS = 0.3


def measure_launch(raw: RawDocker, *, samples: int) -> tuple[float, float]:
    """Return the median seconds of the worker and of the raw API, which take turns."""
    ours, theirs = [], []
    with running_worker():
        for _ in range(samples + 1):
            theirs.append(_raw(raw))
            time.sleep(_PAUSE_SECONDS)
            ours.append(queued_launch(raw))
            time.sleep(_PAUSE_SECONDS)
    # The first also connect.
    return statistics.median(ours[1:]), statistics.median(theirs[1:])


def _raw(raw: RawDocker) -> float:
    began = datetime.now(UTC)
    container = raw.start(_COMMAND)
    taken = (raw.started_at(container) - began).total_seconds()
    raw.remove(container)
    return taken


def queued_launch(raw: RawDocker) -> float:
    """Return the seconds from a job's claim until its container has started."""
    from container_manager.models import JobAttempt
    from container_manager.queue import enqueue

    job = enqueue(command=_COMMAND, image=IMAGE)
    attempts = JobAttempt.objects.filter(job=job)
    eventually(lambda: attempts.exclude(handle="").exists())
    attempt = attempts.get()
    taken = (raw.started_at(attempt.handle) - attempt.launched_at).total_seconds()
    eventually(lambda: attempts.exclude(finished_at=None).exists())
    return taken

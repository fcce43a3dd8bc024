"""What pulls that stall cost others: the launch time of jobs whose image is there, with and without them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.docker.faulty_registry import Fault, running

from ..queue.pickup import running_worker
from .launch import queued_launch
from .raw import RawDocker
from .waiting import eventually

STALLED = 4
_SLOTS = STALLED + 4
_PAUSE_SECONDS = 0.3


def measure_stalled_pulls(raw: RawDocker, *, samples: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the median seconds of launches without stalled pulls, and with them, one of each a round."""
    alone, beside = [], []
    with running_worker("--slots", str(_SLOTS)):
        queued_launch(raw)
        for _ in range(rounds):
            alone.append(_median(raw, samples))
            with _stalled_pulls():
                beside.append(_median(raw, samples))
    return alone, beside


def _median(raw: RawDocker, samples: int) -> float:
    taken = []
    for _ in range(samples):
        time.sleep(_PAUSE_SECONDS)
        taken.append(queued_launch(raw))
    return statistics.median(taken)


@contextmanager
def _stalled_pulls() -> Iterator[None]:
    """Have jobs wait for images whose registry says nothing; cancel them in the end."""
    from container_manager.models import JobAttempt
    from container_manager.queue import enqueue

    with running() as registry:
        names = [f"stalled/image{number}:1" for number in range(STALLED)]
        images = [registry.add(name) for name in names]
        for name in names:
            registry.fail(name, "manifest", Fault(stalls=True, share=0.0))
        jobs = [enqueue(command="true", image=image) for image in images]
        for name in names:
            registry.await_asked(name, "manifest")
        yield
        for job in jobs:
            job.refresh_from_db()
            assert job.status == "running", job.last_error
            job.mark_as_cancelled()
        attempts = JobAttempt.objects.filter(job__in=jobs, finished_at=None)
        eventually(lambda: not attempts.exists())

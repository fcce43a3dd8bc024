"""How many Jobs a second are created, watched to their end and deleted: by workers, and by a bare client."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.images import IMAGE

from ..docker.waiting import eventually
from ..queue.idle import cpu_seconds
from ..queue.pickup import running_worker
from .api_requests import ApiRequests
from .bare import BareClient

_COMMAND = "true"
_PAUSE_SECONDS = 0.2
_PATIENCE_SECONDS = 600.0
_WARM_UP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one contender's Jobs took: each figure but the rate is for one Job."""

    rate: float
    requests: ApiRequests
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Turns of the workers and of the bare client, one of each a round."""

    ours: Sequence[Turn]
    bare: Sequence[Turn]

    @property
    def ratio(self) -> float:
        return statistics.median(one.rate / other.rate for one, other in zip(self.ours, self.bare, strict=True))


def measure_throughput(
    administrator: Any, namespace: str, bare: BareClient, *, workers: int, slots: int, count: int, rounds: int
) -> Contest:
    """Have so many workers, with so many slots each, and the bare client take turns."""
    ours, theirs = [], []
    with ExitStack() as stack:
        pids = [stack.enter_context(running_worker("--slots", str(slots))).pid for _ in range(workers)]
        cluster = _Turns(administrator, namespace)
        # The first also connect.
        _run_queued(_WARM_UP * workers)
        bare.run_many(_COMMAND, count=_WARM_UP)
        for _ in range(rounds):
            theirs.append(cluster.measure(count, lambda: bare.run_many(_COMMAND, count=count)))
            ours.append(cluster.measure(count, lambda: _run_queued(count), pids))
    return Contest(ours=ours, bare=theirs)


class _Turns:
    """Measure what a contender does, from an empty namespace to an empty namespace."""

    def __init__(self, administrator: Any, namespace: str) -> None:
        from kubernetes.client import BatchV1Api

        self._administrator, self._namespace = administrator, namespace
        self._jobs: Any = BatchV1Api(administrator)

    def measure(self, count: int, work: Callable[[], object], pids: Sequence[int] = ()) -> Turn:
        self._await_none()
        before, cpu_before = ApiRequests.counted(self._administrator), sum(map(cpu_seconds, pids))
        start = time.monotonic()
        work()
        self._await_none()
        taken = time.monotonic() - start
        after, cpu_after = ApiRequests.counted(self._administrator), sum(map(cpu_seconds, pids))
        return Turn(rate=count / taken, requests=(after - before) / count, cpu_seconds=(cpu_after - cpu_before) / count)

    def _await_none(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._jobs.list_namespaced_job(self._namespace, limit=1).items:
            if time.monotonic() > deadline:
                raise RuntimeError("Jobs are left.")
            time.sleep(_PAUSE_SECONDS)


def _run_queued(count: int) -> None:
    from container_manager.models import ContainerJob
    from container_manager.queue import enqueue_many

    done = ContainerJob.objects.filter(status="completed")
    before = done.count()
    enqueue_many(ContainerJob(command=_COMMAND, image=IMAGE) for _ in range(count))
    eventually(lambda: done.count() == before + count, seconds=_PATIENCE_SECONDS)

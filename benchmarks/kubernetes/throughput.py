"""How many Jobs a second are created, watched to their end and deleted: by workers, and by a bare client."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.cluster_under_test import ClusterUnderTest
from tests.kubernetes.images import IMAGE

from ..docker.waiting import eventually
from ..queue.idle import cpu_seconds
from ..queue.pickup import running_worker
from .api_requests import ApiRequests
from .bare import BareClient

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
    under_test: ClusterUnderTest,
    namespace: str,
    bare: BareClient,
    *,
    command: str,
    workers: int,
    at_once: int,
    count: int,
    rounds: int,
) -> Contest:
    """Have so many workers and the bare client take turns, with so many Jobs at once each."""
    ours, theirs = [], []
    with ExitStack() as stack:
        pids = [stack.enter_context(running_worker("--slots", str(at_once // workers))).pid for _ in range(workers)]
        cluster = _Turns(under_test, namespace)
        # The first also connect.
        _run_queued(command, count=_WARM_UP * workers)
        bare.run_many(command, count=_WARM_UP, at_once=at_once)
        for _ in range(rounds):
            theirs.append(cluster.measure(count, lambda: bare.run_many(command, count=count, at_once=at_once)))
            ours.append(cluster.measure(count, lambda: _run_queued(command, count=count), pids))
    return Contest(ours=ours, bare=theirs)


class _Turns:
    """Measure what a contender does, from an empty cluster to an empty namespace."""

    def __init__(self, under_test: ClusterUnderTest, namespace: str) -> None:
        from kubernetes.client import BatchV1Api

        self._administrator, self._namespace = under_test.client, namespace
        self._nodes = under_test.control.nodes.values() if under_test.control else ()
        self._jobs: Any = BatchV1Api(self._administrator)

    def measure(self, count: int, work: Callable[[], object], pids: Sequence[int] = ()) -> Turn:
        self._await_none()
        # Once a minute each kubelet removes what is left of ended pods, at a price: it must not be the next turn's.
        eventually(lambda: not any(node.containers() for node in self._nodes), seconds=_PATIENCE_SECONDS)
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


def _run_queued(command: str, *, count: int) -> None:
    from container_manager.models import ContainerJob
    from container_manager.queue import enqueue_many

    done = ContainerJob.objects.filter(status="completed")
    before = done.count()
    enqueue_many(ContainerJob(command=command, image=IMAGE) for _ in range(count))
    eventually(lambda: done.count() == before + count, seconds=_PATIENCE_SECONDS)

"""Whatever workers and people do to the same jobs at once, nobody waits in a circle; and should one, it is retried."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections
from django.utils import timezone

from container_manager import queue, store
from container_manager.models import ContainerJob, JobStatus
from container_manager.statemachine import TransitionError
from container_manager.store.consistency import examine

from .protocol.records import register, rescue

pytestmark = pytest.mark.django_db(transaction=True)
_WORKERS = 4
_OPEN = [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED]


class Hand:
    """One worker and one person, who do whatever comes to their minds, on a connection of their own."""

    def __init__(self, number: int, seed: int) -> None:
        self.name = f"worker-{number}"
        self.random = random.Random(seed)  # noqa: S311  # a course of events, not a secret
        self.held: list[store.ClaimedJob] = []
        self.done: Counter[str] = Counter()
        self.errors: list[tuple[str, DatabaseError]] = []

    def work(self, seconds: float) -> None:
        acts = [self.enqueue, self.claim, self.claim, self.write, self.finish, self.finish, self.cancel]
        acts += [self.cancel_many, self.retry, self.maintain, self.prune]
        # Each once, however slow the machine is.
        first = self.random.sample(acts, len(acts))
        until = time.monotonic() + seconds
        try:
            while first or time.monotonic() < until:
                act = first[-1] if first else self.random.choice(acts)
                try:
                    act()
                    self.done[act.__name__] += 1
                    del first[-1:]
                except TransitionError:
                    self.done["refused"] += 1
                except DatabaseError as error:
                    self.errors.append((act.__name__, error))
        finally:
            connections.close_all()

    def some(self, count: int, *statuses: str) -> list[Any]:
        jobs = ContainerJob.objects.filter(status__in=statuses or _OPEN).order_by("-priority", "queued_at")[:40]
        found = list(jobs)
        return self.random.sample(found, min(count, len(found)))

    def enqueue(self) -> None:
        queue.enqueue_many(ContainerJob(command="true", priority=self.random.randrange(101)) for _ in range(8))

    def claim(self) -> None:
        self.held += store.claim(worker=self.name, executors=["default"], limit=5, using="default")
        self.random.shuffle(self.held)

    def write(self) -> None:
        entry = store.LogEntry(sequence=0, stream="stdout", data=b"x")
        changes = [
            store.LogChange(job_id=job.id, attempt=job.attempt, entries=[entry], gone=(0, 1)) for job in self.held
        ]
        store.store_logs(changes, worker=self.name, using="default")

    def finish(self) -> None:
        ended = self.held[:4]
        outcomes = [
            store.Outcome(
                job_id=job.id,
                attempt=job.attempt,
                status="failed" if number % 2 else "completed",
                reason="error" if number % 2 else "",
                retry_after_seconds=-1.0 if number % 4 == 1 else None,
            )
            for number, job in enumerate(ended)
        ]
        closed = store.finish(outcomes, worker=self.name, using="default")
        # What is missing was cancelled this very moment: sent again, as a worker does.
        self.held = [job for job in self.held if (job.id, job.attempt) not in closed]

    def cancel(self) -> None:
        for job in self.some(1):
            job.mark_as_cancelled(actor=self.name)

    def cancel_many(self) -> None:
        keys = [job.pk for job in self.some(5)]
        ContainerJob.objects.filter(pk__in=keys).transition_to("cancelled", actor=self.name)

    def retry(self) -> None:
        for job in self.some(1, JobStatus.FAILED):
            queue.retry(job, actor=self.name)

    def maintain(self) -> None:
        assert store.renew_lease(self.name, lease_seconds=600.0, using="default")
        rescue(self.name)
        store.promote_retries(using="default")

    def prune(self) -> None:
        queue.prune_jobs(before=timezone.now() - timedelta(seconds=0.3), limit=20)


def told_by_the_database() -> str:
    """Return what MariaDB says of its latest deadlock."""
    if connection.vendor != "mysql":
        return ""
    with connection.cursor() as cursor:
        cursor.execute("SHOW ENGINE INNODB STATUS")
        status = cursor.fetchone()[2]
    return str(status[status.find("LATEST DETECTED DEADLOCK") :].partition("\nTRANSACTIONS\n")[0])


@pytest.mark.parametrize("seconds", [5.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_all_operations_at_once_cause_no_deadlock(seconds: float) -> None:
    hands = [Hand(number, seed=number) for number in range(_WORKERS)]
    for hand in hands:
        register(hand.name, lease_seconds=600.0)
    threads = [threading.Thread(target=hand.work, args=[seconds]) for hand in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = sum((hand.done for hand in hands), Counter())
    assert [error for hand in hands for error in hand.errors] == [], told_by_the_database()
    acts = {"enqueue", "claim", "write", "finish", "cancel", "cancel_many", "retry", "maintain", "prune"}
    assert acts <= {name for name, count in done.items() if count >= _WORKERS}
    assert examine().problems == []

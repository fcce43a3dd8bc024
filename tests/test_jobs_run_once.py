"""Without faults each job runs once, in the order of the queue, however many workers there are."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from container_manager import queue
from container_manager.models import ContainerJob, JobAttempt, JobTransition

from .polling import PATIENCE_SECONDS, eventually
from .workers import start_worker, worker

pytestmark = pytest.mark.django_db(transaction=True)
_WORKERS, _SLOTS = 4, 8


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.shows("explanation/worker.md#what-happens-when-something-dies")
def test_no_job_runs_twice(count: int, tmp_path: Path) -> None:
    lines, log, go = tmp_path / "lines", tmp_path / "log", tmp_path / "go"
    # Opened in append mode: lines of several processes do not mix.
    os.mkfifo(go)
    command = f"sh -c 'read word < {go}; echo $CONTAINER_MANAGER_JOB >> {lines}'"
    jobs = queue.enqueue_many([ContainerJob(command=command, max_retries=5) for _ in range(count)])
    workers = [start_worker("--drain", "--slots", str(_SLOTS), log=log) for _ in range(_WORKERS)]
    try:
        # No job ends before all workers have claimed some, however slowly they start.
        eventually(lambda: JobAttempt.objects.count() == _WORKERS * _SLOTS)
        # Open for reading too: it keeps the words of jobs that have not begun.
        with go.open("r+b", buffering=0) as words:
            words.write(b"\n" * count)
            assert [process.wait() for process in workers] == [0] * _WORKERS, log.read_text()
    finally:
        for process in workers:
            process.kill()
            process.wait()
    assert Counter(lines.read_text().split()) == {str(job.pk): 1 for job in jobs}
    assert ContainerJob.objects.filter(status="completed", attempt=1, retry_count=0).count() == count
    assert JobAttempt.objects.filter(number=1, exit_code=0, finished_at__isnull=False).count() == count
    assert JobAttempt.objects.values("worker").distinct().count() == _WORKERS
    assert (JobAttempt.objects.count(), JobTransition.objects.count()) == (count, 2 * count)


def test_one_slot_runs_jobs_by_priority_then_age_and_none_before_its_scheduled_time(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def enqueue(name: str, **fields: object) -> ContainerJob:
        return queue.enqueue(name=name, command=f"sh -c 'echo {name} >> {order}'", **fields)

    due = timezone.now() + timedelta(hours=1)
    late = enqueue("late", priority=100, scheduled_for=due)
    never = enqueue("never", priority=100, scheduled_for=due + timedelta(hours=1))
    for age, (name, priority) in enumerate([("low", 0), ("young", 50), ("old", 50), ("past", 50), ("high", 99)]):
        job = enqueue(name, priority=priority, scheduled_for=due - timedelta(hours=2) if name == "past" else None)
        ContainerJob.objects.filter(pk=job.pk).update(queued_at=due - timedelta(hours=age + 2))
    with worker("--slots", "1", "--max-jobs", "6", log=tmp_path / "log") as process:
        eventually(lambda: order.exists() and len(order.read_text().split()) == 5)
        # Only now: otherwise it might be due before the worker has claimed anything.
        ContainerJob.objects.filter(pk=late.pk).update(scheduled_for=timezone.now() + timedelta(seconds=1))
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert order.read_text().split() == ["high", "past", "old", "young", "low", "late"]
    late.refresh_from_db()
    never.refresh_from_db()
    assert late.launched_at >= late.scheduled_for
    assert (never.status, never.queue_status) == ("queued", "scheduled")

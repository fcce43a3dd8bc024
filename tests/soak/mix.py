"""Claim, finish, cancel, retry and prune side by side: no deadlock, and no job that lies.

``python -m tests.soak.mix WORKER SECONDS`` is one of the workers.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

_WORKERS, _SECONDS, _WAITING = 4, 60.0, 200
_DEADLOCKS = {
    "postgresql": "SELECT sum(deadlocks) FROM pg_stat_database",
    "mysql": "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Innodb_deadlocks'",
}


def run(folder: Path) -> list[str]:
    from django.db import connection

    from container_manager.doctor import examine

    command = [sys.executable, "-m", "tests.soak.mix"]
    workers = [
        subprocess.Popen([*command, f"worker-{n}", str(_SECONDS)], stdout=subprocess.PIPE, text=True)
        for n in range(_WORKERS)
    ]
    reports = [worker.communicate()[0].strip() for worker in workers]
    problems = [
        f"{report} (ended with {w.returncode})" for report, w in zip(reports, workers, strict=True) if w.returncode
    ]
    # What was claimed and not finished when the time was up is no lie: it has an open attempt.
    problems += examine().problems
    deadlocks = 0
    if connection.vendor in _DEADLOCKS:
        with connection.cursor() as cursor:
            cursor.execute(_DEADLOCKS[connection.vendor])
            deadlocks = int(cursor.fetchone()[0])
    if deadlocks:
        problems.append(f"the database reports {deadlocks} deadlocks: {_last_deadlock(folder)}")
    sys.stdout.writelines(f"{report}\n" for report in reports)
    sys.stdout.write(f"{_WORKERS} workers, {_SECONDS:.0f} s: {deadlocks} deadlocks\n")
    return problems


def _last_deadlock(folder: Path) -> str:
    """Return what the database says of the last one."""
    from django.db import connection

    if connection.vendor == "postgresql":
        log = (folder / "server" / "log").read_text()
        return log[log.rindex("deadlock detected") :][:4000]
    with connection.cursor() as cursor:
        cursor.execute("SHOW ENGINE INNODB STATUS")
        status: str = cursor.fetchone()[2]
    return status[status.index("LATEST DETECTED DEADLOCK") : status.index("TRANSACTIONS\n---")]


def work(worker: str, seconds: float) -> Counter[str]:
    """Do at random what workers and users do; count it."""
    from django.db import transaction
    from django.utils import timezone

    from container_manager import queue
    from container_manager.models import ContainerJob, Worker
    from container_manager.statemachine import TransitionError

    draw, done = random.Random(worker), Counter[str]()  # noqa: S311  # an order, not a secret
    queue.register_worker(
        Worker(id=worker, host="here", pid=1, executors=["default"], lease_expires_at=timezone.now()),
        lease_seconds=seconds * 2,
        using="default",
    )
    held: list[queue.ClaimedJob] = []
    end = time.monotonic() + seconds

    def enqueue() -> None:
        if ContainerJob.objects.filter(status="queued").count() < _WAITING:
            queue.enqueue_many(ContainerJob(command="true", max_retries=2) for _ in range(50))

    def claim() -> None:
        held.extend(queue.claim(worker=worker, executors=["default"], limit=10, using="default"))

    def finish() -> None:
        outcomes = [
            queue.Outcome(job_id=job.id, attempt=job.attempt, status="failed", reason="error", retry_after_seconds=0.0)
            if draw.random() < 0.2 and job.retry_count < job.max_retries
            else queue.Outcome(job_id=job.id, attempt=job.attempt, status="completed", exit_code=0)
            for job in held
        ]
        closed = queue.finish(outcomes, worker=worker, using="default")
        held[:] = [job for job in held if (job.id, job.attempt) not in closed]

    def log() -> None:
        entries = [
            queue.LogEntry(job_id=job.id, attempt=job.attempt, sequence=0, stream="stdout", data=b"x") for job in held
        ]
        queue.append_logs(entries, worker=worker, using="default")

    def cancel() -> None:
        for job in ContainerJob.objects.filter(status__in=["queued", "running"]).order_by("?")[:3]:
            try:
                job.mark_as_cancelled(actor=worker)
            except TransitionError:
                done["too late"] += 1

    def cancel_many() -> None:
        with transaction.atomic():
            keys = list(ContainerJob.objects.filter(status="running").values_list("pk", flat=True)[:5])
            ContainerJob.objects.filter(pk__in=keys).transition_to("cancelled", actor=worker)

    def promote() -> None:
        queue.promote_retries(using="default")

    def rescue() -> None:
        queue.rescue(worker=worker, executors=["default"], using="default")

    def prune() -> None:
        queue.prune_jobs(before=timezone.now() - timedelta(seconds=2), limit=100, using="default")

    def renew() -> None:
        queue.renew_lease(worker, lease_seconds=seconds * 2, using="default")

    actions = [enqueue, claim, claim, log, finish, finish, cancel, cancel_many, promote, rescue, prune, renew]
    while time.monotonic() < end:
        action = draw.choice(actions)
        action()
        done[action.__name__] += 1
    return done


if __name__ == "__main__":
    import django

    django.setup()
    sys.stdout.write(f"{sys.argv[1]}: {dict(sorted(work(sys.argv[1], float(sys.argv[2])).items()))}\n")

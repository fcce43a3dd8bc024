"""How fast a worker empties a queue of local processes on SQLite, beside a bare pool of as many subprocesses."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from django.db import transaction
from django.db.models import Max, Min

from ..queue.commands import worker_command

SLOTS = 4


def measure_drain(*, jobs: int, rounds: int) -> list[tuple[float, float]]:
    """Return the jobs per second of the worker and of the pool, round by round."""
    from container_manager.cli.standalone import DATABASE_VARIABLE, configure

    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        os.environ[DATABASE_VARIABLE] = str(Path(folder) / "jobs.sqlite3")
        configure()
        return [(_worker_rate(jobs), jobs / bare_pool(jobs)) for _ in range(rounds)]


def bare_pool(jobs: int) -> float:
    """Return the seconds that plain subprocesses take, `SLOTS` at a time."""
    began = time.perf_counter()
    running = [subprocess.Popen(["true"]) for _ in range(SLOTS)]
    for _ in range(jobs - SLOTS):
        running.pop(0).wait()
        running.append(subprocess.Popen(["true"]))
    for process in running:
        process.wait()
    return time.perf_counter() - began


def _worker_rate(jobs: int) -> float:
    """Count from the first claim to the last end: a worker that goes on has started long ago."""
    from container_manager.models import ContainerJob
    from container_manager.queue import enqueue

    ContainerJob.objects.all().delete()
    with transaction.atomic():
        for _ in range(jobs):
            enqueue(command="true")
    subprocess.run(worker_command("--drain", "--slots", str(SLOTS)), check=True)
    done = ContainerJob.objects.filter(status="completed")
    if done.count() != jobs:
        raise RuntimeError(f"Of {jobs} jobs {done.count()} are completed.")
    times = done.aggregate(first=Min("launched_at"), last=Max("completed_at"))
    return jobs / float((times["last"] - times["first"]).total_seconds())

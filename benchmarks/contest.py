"""Measure one database, in this process: ``python -m benchmarks.contest`` prints the seconds as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import django
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from .measure import Contender, Seconds, interleave

ROUNDS, BATCH = 40, 50
BULK_ROUNDS, BULK_ROWS = 7, 10_000

_MARKS = ("status_version", "status_changed_at", "status_changed_by", "status_changed_reason")


def main() -> None:
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    from .rows import Driver

    driver = Driver()
    results: dict[str, Seconds] = {}
    for name, prepare in _settings(driver).items():
        prepare()
        results[name] = {**_transitions(driver), **_saves(), **_bulk(driver)}
    json.dump(results, sys.stdout)


def _settings(driver: Any) -> dict[str, Callable[[], None]]:
    if connection.vendor == "postgresql":
        call_command("pgtrigger", "install")
        return {
            f"PostgreSQL, synchronous_commit {value}": partial(driver.set_synchronous_commit, value)
            for value in ("off", "on")
        }
    return {"SQLite": lambda: None}


def _transitions(driver: Any) -> Seconds:
    from container_manager.models import ContainerJob, JobStatus

    from .peers import models as peers
    from .peers.flow import JobFlow
    from .rows import Pool, Template, fill

    turns = ROUNDS + 1
    Template(JobStatus.QUEUED, 2 * turns * BATCH)  # only for its emptying of the table
    jobs = Pool(ContainerJob)
    written = ("status", "launched_at", *_MARKS)
    sql = driver.update(written, "id = ? AND status = ?")

    def raw(count: int) -> list[list[Any]]:
        values = {"status": "running", "launched_at": timezone.now(), "status_changed_at": timezone.now()}
        values.update(status_version=12345, status_changed_by="", status_changed_reason="")
        prepared = [driver.value(name, values[name]) for name in written]
        return [[*prepared, driver.value("id", job.pk), "queued"] for job in jobs.take(count)]

    contenders = [
        Contender(name="raw", prepare=raw, run=lambda values: driver.run(sql, values, rows=1)),
        Contender(name="ours", prepare=jobs.take, run=lambda job: job.transition_to(JobStatus.RUNNING)),
    ]

    def started(job: Any) -> None:
        job.start()
        job.save(update_fields=["status", "launched_at"])

    def assigned(job: Any) -> None:
        job.status, job.launched_at = JobStatus.RUNNING, timezone.now()
        job.save(update_fields=["status", "launched_at"])

    ways = {
        "seed": (peers.SeedJob, lambda job: job.mark_as_running()),
        "fsm-2": (peers.FsmJob, started),
        "fsm-2 CTM": (peers.ConcurrentFsmJob, started),
        "viewflow": (peers.FlowJob, lambda job: JobFlow(job).start()),
    }
    if connection.vendor == "postgresql":
        ways["pgtrigger"] = (peers.TriggeredJob, assigned)
    for name, (model, run) in ways.items():
        model.objects.all().delete()
        fill(model, JobStatus.QUEUED, turns * BATCH)
        contenders.append(Contender(name=name, prepare=Pool(model).take, run=run))
    return interleave(contenders, rounds=ROUNDS, batch=BATCH)


def _saves() -> Seconds:
    from container_manager.models import ContainerJob, JobStatus

    from .peers import models as peers
    from .rows import Pool, Template, fill

    turns = ROUNDS + 1
    Template(JobStatus.QUEUED, turns * BATCH)
    peers.FsmJob.objects.all().delete()
    fill(peers.FsmJob, JobStatus.QUEUED, 2*turns * BATCH)

    def ours(job: Any) -> None:
        job.status = JobStatus.RUNNING
        job.save()

    def theirs(job: Any) -> None:
        job.start()
        job.save()
    def theirs2(job: Any) -> None:
        job.status = JobStatus.RUNNING
        job.save()

    p = Pool(peers.FsmJob)
    contenders = [
        Contender(name="save ours", prepare=Pool(ContainerJob).take, run=ours),
        Contender(name="save fsm-2", prepare=p.take, run=theirs),
        Contender(name="save fsm-2 assign", prepare=p.take, run=theirs2),
    ]
    return interleave(contenders, rounds=ROUNDS, batch=BATCH)


def _bulk(driver: Any) -> Seconds:
    from container_manager.models import ContainerJob, JobStatus

    from .rows import Template

    template = Template(JobStatus.PENDING, BULK_ROWS)
    written = ("status", "queued_at", "launched_at", *_MARKS)
    sql = driver.update(written, "status = ?")

    def raw(count: int) -> list[list[Any]]:
        template.restore()
        values = {"status": "queued", "queued_at": timezone.now(), "launched_at": None, "status_changed_at": timezone.now()}
        values.update(status_version=12345, status_changed_by="", status_changed_reason="")
        return [[*(driver.value(name, values[name]) for name in written), "pending"]]

    def ours(count: int) -> list[Any]:
        template.restore()
        return [ContainerJob.objects.filter(status="pending")]

    def run(jobs: Any) -> None:
        assert jobs.transition_to("queued").changed == BULK_ROWS

    contenders = [
        Contender(name="bulk raw", prepare=raw, run=lambda values: driver.run(sql, values, rows=BULK_ROWS)),
        Contender(name="bulk ours", prepare=ours, run=run),
    ]
    return interleave(contenders, rounds=BULK_ROUNDS, batch=1)


if __name__ == "__main__":
    main()

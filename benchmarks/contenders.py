"""Who takes part in each contest.

All write rows of the same width with the same indexes. The raw UPDATE and ours write to the table with the triggers,
the CHECK constraints and the journal; the peers' tables have none of them, only what the peer brings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils import timezone

from container_manager.models import ContainerJob, JobStatus
from container_manager.statemachine.machine import machine_of

from .driver import Driver
from .measure import Contender
from .peers import fsm2
from .peers.models import WAYS
from .peers.way import Way
from .rows import Pool, Template

RAW, OURS = "raw guarded UPDATE", "transition_to()"
SAVE, PEER_SAVE = "save() with a changed status", "django-fsm-2's"
BULK, RAW_BULK = "bulk transition_to()", "raw bulk UPDATE"

# The largest share that any model has in a contest: of raw and ours, or of a peer's two ways.
WAYS_PER_MODEL = 2


def transitions(driver: Driver, template: Template, *, rows: int) -> list[Contender]:
    """Move one row from queued to running, in every way there is."""
    changes = _changes(JobStatus.RUNNING)
    sql, written = driver.update([*changes], ["id", "status"]), driver.values(changes)

    def parameters(job: ContainerJob) -> list[Any]:
        return [*written, *driver.values({"id": job.pk, "status": JobStatus.QUEUED})]

    template.fill(ContainerJob, 2 * rows)
    jobs = Pool(ContainerJob)
    return [
        Contender(
            name=RAW,
            prepare=lambda count: [parameters(job) for job in jobs.take(count)],
            run=lambda values: driver.run(sql, values, rows=1),
        ),
        Contender(name=OURS, prepare=jobs.take, run=lambda job: job.transition_to(JobStatus.RUNNING)),
        *_peers(WAYS, template, rows),
    ]


def saves(template: Template, *, rows: int) -> list[Contender]:
    """Move one row from queued to running by `save()` of the whole instance."""

    def ours(job: ContainerJob) -> None:
        job.status = JobStatus.RUNNING
        job.save()

    template.fill(ContainerJob, rows)
    theirs = Way(name=PEER_SAVE, model=fsm2.FsmJob, run=fsm2.documented)
    return [
        Contender(name=SAVE, prepare=Pool(ContainerJob).take, run=ours),
        *_peers([theirs], template, rows),
    ]


def bulk(driver: Driver, template: Template, *, rows: int) -> list[Contender]:
    """Move all rows of the table from pending to queued."""
    changes = _changes(JobStatus.QUEUED)
    sql = driver.update([*changes], ["status"])
    values = [*driver.values(changes), *driver.values({"status": JobStatus.PENDING})]

    def filled(count: int) -> Sequence[Any]:
        template.fill(ContainerJob, rows)
        return [ContainerJob.objects.filter(status=JobStatus.PENDING)]

    def ours(jobs: Any) -> None:
        if (changed := jobs.transition_to(JobStatus.QUEUED).changed) != rows:
            raise RuntimeError(f"{changed} rows changed, not {rows}.")

    return [
        Contender(name=RAW_BULK, prepare=filled, run=lambda _: driver.run(sql, values, rows=rows)),
        Contender(name=BULK, prepare=filled, run=ours),
    ]


def _changes(status: JobStatus) -> Mapping[str, Any]:
    """Return what a transition writes."""
    return machine_of(ContainerJob).changes(status.value, at=timezone.now(), actor="", reason="")


def _peers(ways: Sequence[Way], template: Template, rows: int) -> list[Contender]:
    shares = Counter(way.model for way in ways)
    for model, share in shares.items():
        template.fill(model, share * rows)
    pools = {model: Pool(model) for model in shares}
    return [Contender(name=way.name, prepare=pools[way.model].take, run=way.run) for way in ways]

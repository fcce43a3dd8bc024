"""Check every job's row, journal and attempts against each other: a job whose status is wrong shows up here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS

from ..models import ContainerJob, JobAttempt, JobStatus, JobTransition
from . import engines_by_alias, live_workers, unserved_destinations

T = TypeVar("T", JobTransition, JobAttempt)
_BATCH = 500
_ENDS_OF_ATTEMPT = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """The result: counts, and problems, each with the id of its job. ``notes``: what jobs wait for, and may suffer."""

    jobs: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    transitions: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(*, using: str = DEFAULT_DB_ALIAS) -> Diagnosis:
    """Examine every job. A job with a problem is examined twice: it may have changed between the first queries."""
    diagnosis = Diagnosis(notes=[*_notes(using)])
    last = None
    while True:
        jobs = ContainerJob.objects.using(using).order_by("pk")
        batch = list((jobs if last is None else jobs.filter(pk__gt=last))[:_BATCH])
        if not batch:
            return diagnosis
        last = batch[-1].pk
        for job, found in _examine(batch, using, diagnosis):
            again = list(ContainerJob.objects.using(using).filter(pk=job.pk)) if found else []
            diagnosis.problems += [f"{job.pk}: {text}" for _, more in _examine(again, using, None) for text in more]


def _notes(using: str) -> Iterator[str]:
    for executor, queue in unserved_destinations(using=using):
        yield f"no live worker serves executor {executor} in queue {queue}: its jobs wait"
    for alias, engines in engines_by_alias(using=using).items():
        if len(engines) > 1:
            hosts = ", ".join(f"{engine} ({', '.join(names)})" for engine, names in sorted(engines.items()))
            yield f"executor {alias} is {len(engines)} engines, none of which can adopt another's attempts: {hosts}"


def _examine(
    jobs: Sequence[ContainerJob], using: str, diagnosis: Diagnosis | None
) -> Iterator[tuple[ContainerJob, list[str]]]:
    keys = [job.pk for job in jobs]
    journal = _by_job(JobTransition.objects.using(using).filter(job__in=keys).order_by("id"))
    attempts = _by_job(JobAttempt.objects.using(using).filter(job__in=keys).order_by("number"))
    alive = set(live_workers(using=using))
    for job in jobs:
        mine, history = attempts.get(job.pk, []), journal.get(job.pk, [])
        if diagnosis is not None:
            diagnosis.jobs[job.status] += 1
            diagnosis.attempts += len(mine)
            diagnosis.transitions += len(history)
        yield job, [*journal_problems(job, history), *attempt_problems(job, mine, history, alive)]


def journal_problems(job: ContainerJob, history: Sequence[JobTransition]) -> Iterator[str]:
    """Yield where the journal is not a path of the graph that ends at the job's status."""
    for entry in history:
        if entry.to_status not in job.VALID_TRANSITIONS.get(entry.from_status, ()):
            yield f"the journal has {entry.from_status} -> {entry.to_status}, which is no edge of the map"
    for earlier, later in pairwise(history):
        if earlier.to_status != later.from_status:
            yield f"the journal breaks: it came to {earlier.to_status}, then left {later.from_status}"
    if history and history[-1].to_status != job.status:
        yield f"the journal ends at {history[-1].to_status}, the job is {job.status}"


def attempt_problems(
    job: ContainerJob, attempts: Sequence[JobAttempt], history: Sequence[JobTransition], alive: Iterable[str]
) -> Iterator[str]:
    """Yield where the attempts contradict the job: gaps in the numbers, too many ends, open ones without a lease."""
    numbers = [attempt.number for attempt in attempts]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the attempts are numbered {numbers}"
    if numbers and numbers[-1] != job.attempt:
        yield f"the last attempt is {numbers[-1]}, the job says {job.attempt}"
    ends = sum(1 for e in history if e.from_status == JobStatus.RUNNING and e.to_status in _ENDS_OF_ATTEMPT)
    running = job.status == JobStatus.RUNNING
    if numbers and ends + running != len(numbers):
        yield f"{len(numbers)} attempts came to {ends} ends"
    still_open = [attempt for attempt in attempts if attempt.finished_at is None]
    if running and job.worker and [attempt.number for attempt in still_open] != [job.attempt]:
        yield f"it runs, and its open attempts are {[a.number for a in still_open]}"
    for attempt in still_open:
        if attempt.worker not in alive:
            yield f"attempt {attempt.number} is open, and its worker {attempt.worker} has no lease"


def _by_job(rows: Iterable[T]) -> dict[Any, list[T]]:
    found: dict[Any, list[T]] = {}
    for row in rows:
        found.setdefault(row.job_id, []).append(row)
    return found

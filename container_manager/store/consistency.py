"""Check every job's row, journal and attempts against each other: a job whose status is wrong shows up here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Exists, OuterRef

from ..models import ContainerJob, JobAttempt, JobStatus, JobTransition
from ..statemachine.machine import machine_of
from . import engines_by_alias, live_workers, unserved_destinations
from .sql import store_sql

T = TypeVar("T", JobTransition, JobAttempt)
# A statement examines a range of so many jobs, or so many jobs that it names: each stands in it three times.
_RANGE, _NAMED = 10_000, 1000
_ENDS_OF_ATTEMPT = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
# Entries that were made at the same time may have any order, and clocks differ.
_DISORDER = timedelta(hours=1)
# Told how many jobs have been examined, and of how many, if that is known.
OnExamined = Callable[[int, int | None], object]


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """The result: counts, and problems, each with the id of its job. ``notes``: what jobs wait for, and may suffer."""

    jobs: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    transitions: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Jobs(NamedTuple):
    """Some of the jobs: a condition on the column of their key, written ``KEY``, and its parameters."""

    condition: str
    params: Sequence[Any]


def examine(
    *, since: datetime | None = None, progress: OnExamined | None = None, using: str = DEFAULT_DB_ALIAS
) -> Diagnosis:
    """Examine every job; with ``since`` those that have changed since then, and those with an open attempt.

    The database looks for jobs with a problem, thousands with a statement. What it finds is examined again, since it
    may have changed by then, and put into words.
    """
    diagnosis = Diagnosis(notes=[*_notes(using)])
    total = ContainerJob.objects.using(using).count() if progress and since is None else None
    for jobs in _ranges(using) if since is None else _changed(since, using):
        suspects = _look(jobs, diagnosis, using)
        for start in range(0, len(suspects), _NAMED):
            diagnosis.problems += _problems(suspects[start : start + _NAMED], using)
        if progress:
            progress(diagnosis.jobs.total(), total)
    return diagnosis


def _notes(using: str) -> Iterator[str]:
    for executor, queue in unserved_destinations(using=using):
        yield f"no live worker serves executor {executor} in queue {queue}: its jobs wait"
    for alias, engines in engines_by_alias(using=using).items():
        if len(engines) > 1:
            hosts = ", ".join(f"{engine} ({', '.join(names)})" for engine, names in sorted(engines.items()))
            yield f"executor {alias} is {len(engines)} engines, none of which can adopt another's attempts: {hosts}"


def _ranges(using: str) -> Iterator[_Jobs]:
    """Yield ranges of the primary key that have all jobs in them."""
    keys = ContainerJob.objects.using(using).order_by("pk").values_list("pk", flat=True)
    last: list[UUID] = []
    while True:
        rest = keys.filter(pk__gt=last[0]) if last else keys
        # The job after which the next range begins.
        end = list(rest[_RANGE - 1 : _RANGE])
        bounds = [*([("KEY > %s", last[0])] if last else []), *([("KEY <= %s", end[0])] if end else [])]
        yield _Jobs(" AND ".join(sql for sql, _ in bounds) or "1 = 1", _stored([key for _, key in bounds], using))
        if not end:
            return
        last = end


def _changed(since: datetime, using: str) -> Iterator[_Jobs]:
    """Yield the jobs that have entries in the journal since then, each once, and those with an open attempt."""
    entries = JobTransition.objects.using(using).order_by("pk")
    newest = entries.values_list("pk", flat=True).last() or 0
    first = _first_entry(since - _DISORDER, newest, using)
    recent = entries.filter(pk__range=(first, newest), at__gte=since)
    place = first - 1
    while rows := list(recent.filter(pk__gt=place).values_list("pk", "job")[:_NAMED]):
        place, jobs = rows[-1][0], {job for _, job in rows}
        # What has changed again comes with its last entry.
        later = recent.filter(job__in=jobs, pk__gt=place).order_by()
        if now := jobs - set(later.values_list("job", flat=True).distinct()):
            yield _named(sorted(now), using)
    still_open = JobAttempt.objects.using(using).filter(~Exists(recent.filter(job=OuterRef("job"))), finished_at=None)
    owners = list(still_open.order_by().values_list("job", flat=True).distinct())
    for start in range(0, len(owners), _NAMED):
        yield _named(owners[start : start + _NAMED], using)


def _first_entry(since: datetime, newest: int, using: str) -> int:
    """Return the key of the journal from which on entries are as recent as this: no index has their times.

    Keys ascend with the time, so that a few looks find it.
    """
    entries = JobTransition.objects.using(using).order_by("pk")
    low, high = 0, newest + 1
    while low < high:
        middle = (low + high) // 2
        found = entries.filter(pk__gte=middle).values_list("pk", "at").first()
        if found is None or found[1] >= since:
            high = middle
        else:
            low = found[0] + 1
    return low


def _named(keys: Sequence[UUID], using: str) -> _Jobs:
    return _Jobs(f"KEY IN ({', '.join(['%s'] * len(keys))})", _stored(keys, using))


def _stored(keys: Iterable[UUID], using: str) -> list[Any]:
    """Return keys as the database has them."""
    return [ContainerJob._meta.pk.get_db_prep_value(key, connections[using]) for key in keys]


def _look(jobs: _Jobs, diagnosis: Diagnosis, using: str) -> list[UUID]:
    """Count these jobs and what belongs to them, in one statement; return the keys of those that have a problem.

    The conditions are those of `journal_problems` and `attempt_problems`, which say what the problem is.
    """
    suspects = []
    with connections[using].cursor() as cursor:
        cursor.execute(_look_sql(jobs.condition, using), [*jobs.params] * 3)
        for status, suspect, count, attempts, transitions in cursor.fetchall():
            diagnosis.jobs[status] += count
            diagnosis.attempts += int(attempts)
            diagnosis.transitions += int(transitions)
            if suspect is not None:
                suspects.append(suspect if isinstance(suspect, UUID) else UUID(suspect))
    return suspects


def _look_sql(condition: str, using: str) -> str:
    store, graph = store_sql(connections[using]), machine_of(ContainerJob).graph
    source, target, status = (store.dialect.exact(name, graph) for name in ("from_status", "to_status", "j.status"))
    edges = " OR ".join(
        f"(source = '{state}' AND target IN ({_literals(targets)}))"
        for state in graph.states
        if (targets := graph.targets(state))
    )
    ends, its_entries = _literals(_ENDS_OF_ATTEMPT), "OVER (PARTITION BY job_id ORDER BY id)"
    running = f"CASE WHEN {status} = '{JobStatus.RUNNING}' THEN 1 ELSE 0 END"
    alive = f"SELECT id FROM container_manager_worker WHERE lease_expires_at >= {store.now}"
    return f"""
WITH entry AS (
    SELECT job_id, {source} AS source, {target} AS target, LAG({target}) {its_entries} AS reached,
        LEAD(id) {its_entries} AS later
    FROM container_manager_jobtransition WHERE {condition.replace("KEY", "job_id")}
), journal AS (
    SELECT job_id, COUNT(*) AS entries,
        SUM(CASE WHEN ({edges}) AND (reached IS NULL OR reached = source) THEN 0 ELSE 1 END) AS odd,
        SUM(CASE WHEN source = '{JobStatus.RUNNING}' AND target IN ({ends}) THEN 1 ELSE 0 END) AS ends,
        MAX(CASE WHEN later IS NULL THEN target END) AS last_target
    FROM entry GROUP BY job_id
), run AS (
    SELECT job_id, COUNT(*) AS attempts, MIN(number) AS first_number, MAX(number) AS last_number,
        SUM(CASE WHEN finished_at IS NULL THEN 1 ELSE 0 END) AS still_open,
        MAX(CASE WHEN finished_at IS NULL THEN number END) AS open_number,
        SUM(CASE WHEN finished_at IS NULL AND worker NOT IN ({alive}) THEN 1 ELSE 0 END) AS without_lease
    FROM container_manager_jobattempt WHERE {condition.replace("KEY", "job_id")} GROUP BY job_id
), verdict AS (
    SELECT j.status, COALESCE(r.attempts, 0) AS attempts, COALESCE(h.entries, 0) AS entries, CASE WHEN
        h.odd > 0 OR h.last_target <> {status}
        OR r.first_number <> 1 OR r.last_number <> r.attempts OR r.last_number <> j.attempt
        OR r.attempts <> COALESCE(h.ends, 0) + {running}
        OR {running} = 1 AND j.worker <> '' AND (COALESCE(r.still_open, 0) <> 1 OR r.open_number <> j.attempt)
        OR r.without_lease > 0
        THEN j.id END AS suspect
    FROM container_manager_containerjob j
    LEFT JOIN journal h ON h.job_id = j.id
    LEFT JOIN run r ON r.job_id = j.id
    WHERE {condition.replace("KEY", "j.id")}
)
SELECT status, suspect, COUNT(*), SUM(attempts), SUM(entries) FROM verdict GROUP BY status, suspect
"""


def _literals(states: Iterable[Any]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _problems(keys: Sequence[UUID], using: str) -> Iterator[str]:
    """Yield the problems of these jobs in words, as far as they still have them."""
    jobs = ContainerJob.objects.using(using).filter(pk__in=keys).order_by("pk")
    found = list(jobs)
    journal = _by_job(JobTransition.objects.using(using).filter(job__in=keys).order_by("id"))
    attempts = _by_job(JobAttempt.objects.using(using).filter(job__in=keys).order_by("number"))
    alive = set(live_workers(using=using))
    for job in found:
        mine, history = attempts.get(job.pk, []), journal.get(job.pk, [])
        for text in (*journal_problems(job, history), *attempt_problems(job, mine, history, alive)):
            yield f"{job.pk}: {text}"


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

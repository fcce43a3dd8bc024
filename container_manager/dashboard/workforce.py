"""The workers, what each runs, and what no live worker has: for the pages and `container top`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import F

from ..models import JobAttempt, Worker
from ..store import database_now
from .access import visibility_rule, visible_jobs

# Of a very large installation.
_MOST_WORKERS, _MOST_ATTEMPTS = 200, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """An attempt that is not over; ``name``: the job's, None if the user may not see the job.

    ``progress``: as the column has it.
    """

    job_id: UUID
    number: int
    name: str | None
    executor: str
    engine: str
    launched_at: datetime
    waiting_for: str
    progress: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker, whether its lease holds, and its open attempts."""

    worker: Worker
    is_live: bool
    attempts: Sequence[OpenAttempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workforce:
    """All workers. ``orphans``: open attempts of workers that are gone. ``away``: engines that hold open attempts and
    that no live worker reaches. ``now``: when that was, by the database's clock."""

    rows: Sequence[WorkerRow]
    orphans: Sequence[OpenAttempt]
    away: Sequence[str]
    now: datetime


def workforce(user: Any, *, using: str) -> Workforce:
    """Return the workers and what they run, in two statements.

    Or three where the project has a rule who sees what, and another one for the time where there are no workers.

    ``user``: who looks; None: the command line, which sees all.
    """
    found: Any = Worker.objects.with_liveness().using(using)
    workers = list(found.order_by("host", "id")[:_MOST_WORKERS])
    by_worker = _open_attempts(user, using=using)
    rows = [WorkerRow(worker=each, is_live=each.is_live, attempts=by_worker.pop(each.pk, ())) for each in workers]
    reached = {engine for row in rows if row.is_live for engine in row.worker.engines.values()}
    held = {each.engine for row in rows for each in row.attempts}
    orphans = [each for attempts in by_worker.values() for each in attempts]
    orphans += [each for row in rows if not row.is_live for each in row.attempts]
    held |= {each.engine for each in orphans}
    now = workers[0].now if workers else database_now(using=using)
    return Workforce(rows=rows, orphans=orphans, away=sorted(held - reached - {""}), now=now)


def _open_attempts(user: Any, *, using: str) -> dict[str, Sequence[OpenAttempt]]:
    names = ("worker", "job_id", "number", "executor", "engine", "launched_at", "waiting_for", "progress")
    rows = JobAttempt.objects.using(using).filter(finished_at=None).order_by("worker", "executor")
    found = list(rows.values(*names, name=F("job__name"))[:_MOST_ATTEMPTS])
    if user is not None and visibility_rule() is not None:
        jobs = {row["job_id"] for row in found}
        seen = set(visible_jobs(user, using=using).filter(pk__in=jobs).values_list("pk", flat=True))
        found = [{**row, "name": row["name"] if row["job_id"] in seen else None} for row in found]
    by_worker = defaultdict[str, list[OpenAttempt]](list)
    for row in found:
        by_worker[row.pop("worker")].append(OpenAttempt(**row))
    return dict(by_worker)

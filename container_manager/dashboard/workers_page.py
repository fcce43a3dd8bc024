"""The workers: their leases, their slots, what they run, and attempts that no live worker has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from ..models import ContainerJob, JobAttempt, Worker
from ..store import database_now
from .access import visible_jobs
from .live import live_page
from .page import page, page_context

# Of a very large installation.
_MOST_WORKERS, _MOST_ATTEMPTS = 200, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """An attempt that is not over; ``name``: the job's, None if the user may not see the job."""

    job_id: UUID
    number: int
    name: str | None
    executor: str
    engine: str
    launched_at: datetime
    waiting_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker, whether its lease holds, and its open attempts."""

    worker: Worker
    is_live: bool
    attempts: Sequence[OpenAttempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workforce:
    """All workers. ``orphans``: open attempts of workers that are gone. ``away``: engines that hold open attempts and
    that no live worker reaches."""

    rows: Sequence[WorkerRow]
    orphans: Sequence[OpenAttempt]
    away: Sequence[str]


def workforce(user: Any, *, using: str) -> Workforce:
    """Return the workers and what they run, in four queries."""
    now = database_now(using=using)
    workers = list(Worker.objects.using(using).order_by("host", "id")[:_MOST_WORKERS])
    by_worker = _open_attempts(user, using=using)
    rows = [
        WorkerRow(worker=each, is_live=each.lease_expires_at >= now, attempts=by_worker.pop(each.pk, ()))
        for each in workers
    ]
    reached = {engine for row in rows if row.is_live for engine in row.worker.engines.values()}
    held = {each.engine for row in rows for each in row.attempts}
    orphans = [each for attempts in by_worker.values() for each in attempts]
    orphans += [each for row in rows if not row.is_live for each in row.attempts]
    held |= {each.engine for each in orphans}
    return Workforce(rows=rows, orphans=orphans, away=sorted(held - reached - {""}))


def _open_attempts(user: Any, *, using: str) -> dict[str, Sequence[OpenAttempt]]:
    names = ("worker", "job_id", "number", "executor", "engine", "launched_at", "waiting_for")
    found = list(
        JobAttempt.objects.using(using).filter(finished_at=None).order_by("worker", "executor").values(*names)[:_MOST_ATTEMPTS]
    )
    seen: Mapping[UUID, str] = dict(
        visible_jobs(user, using=using).filter(pk__in={row["job_id"] for row in found}).values_list("pk", "name")
    )
    by_worker = defaultdict[str, list[OpenAttempt]](list)
    for row in found:
        by_worker[row.pop("worker")].append(OpenAttempt(**row, name=seen.get(row["job_id"])))
    return dict(by_worker)


@page()
def workers(request: HttpRequest) -> HttpResponse:
    """Show the workers and what they run."""
    found = workforce(request.user, using=router.db_for_read(ContainerJob))
    regions = {"workers": "container_manager_dashboard/workers_rows.html"}
    context = {**page_context("workers", _("Workers"), interval=2), "found": found}
    return live_page(request, "container_manager_dashboard/workers.html", context, regions=regions)

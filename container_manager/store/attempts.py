"""The open attempts of a worker: list them, and store how far their launches have come."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from functools import partial

from django.db import connections, transaction
from django.utils import timezone

from ..models import JobAttempt, JobStatus
from ..statemachine.deadlocks import retries_deadlocks
from .isolation import OnRefused, isolated
from .sql import store_sql
from .sql.statements import Keys
from .values import JOB_COLUMNS, Launch, OwnedAttempt, claimed_job


def owned_attempts(*, worker: str, using: str) -> list[OwnedAttempt]:
    """Return every open attempt of this worker; what it believes to run is compared with that."""
    dialect = store_sql(connections[using])
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join('j.' + name for name in JOB_COLUMNS)}, "
            f"{dialect.seconds_since('a.launched_at')} - a.waited_seconds, "
            "a.number, CASE WHEN j.attempt = a.number THEN j.status ELSE '' END, a.engine, a.handle, "
            "j.status_changed_by, a.kill_requested_at IS NOT NULL "
            "FROM container_manager_jobattempt a "
            "JOIN container_manager_containerjob j ON j.id = a.job_id WHERE a.worker = %s AND a.finished_at IS NULL",
            [worker],
        )
        rows = cursor.fetchall()
    return [
        OwnedAttempt(
            job=claimed_job(row[: len(JOB_COLUMNS) + 1], attempt=row[-6]),
            status=row[-5],
            engine=row[-4],
            handle=row[-3],
            claimed_by=row[-2],
            kill_requested=bool(row[-1]),
        )
        for row in rows
    ]


def request_kill(jobs: Collection[uuid.UUID], *, using: str) -> int:
    """Have the open attempts of cancelled jobs killed, without waiting for their grace periods; return how many."""
    attempts = JobAttempt.objects.using(using).filter(job__in=jobs, finished_at=None, kill_requested_at=None)
    found = list(attempts.filter(job__status=JobStatus.CANCELLED).values_list("pk", flat=True))
    return JobAttempt.objects.using(using).filter(pk__in=found).update(kill_requested_at=timezone.now())


def record_launches(
    launches: Collection[Launch],
    *,
    worker: str,
    refused: OnRefused[Launch] | None = None,
    using: str,
) -> Keys:
    """Store handles, and what launches wait for; attempts that are closed or not this worker's stay as they are.

    Return those that another transaction has locked, of which nothing is stored. ``refused`` is told what the database
    refuses; without it the error is raised.
    """
    work = partial(_record_launches, worker=worker, using=using)
    return set(isolated(work, [*launches], refused=refused, using=using))


@retries_deadlocks
def _record_launches(launches: Sequence[Launch], *, worker: str, using: str) -> Keys:
    with transaction.atomic(using=using), connections[using].cursor() as cursor:
        free, locked = lock_attempts({launch.key for launch in launches}, worker=worker, using=using)
        cursor.executemany(
            "UPDATE container_manager_jobattempt SET handle = %s, waiting_for = %s, waited_seconds = %s WHERE id = %s",
            [(e.handle, e.waiting_for, e.waited_seconds, free[e.key]) for e in launches if e.key in free],
        )
    return locked


def lock_attempts(keys: Keys, *, worker: str, using: str) -> tuple[dict[tuple[uuid.UUID, int], int], Keys]:
    """Lock those of the attempts that are open and this worker's; return their row ids, and those others have locked.

    Needs a transaction. Rows locked by other transactions are skipped (SKIP LOCKED).
    """
    mine = JobAttempt.objects.using(using).filter(job__in={job for job, _ in keys}, worker=worker, finished_at=None)
    columns = mine.order_by("job", "number").values_list("job", "number", "pk")
    no_key = connections[using].features.has_select_for_no_key_update
    locking = columns.select_for_update(skip_locked=True, no_key=no_key)
    free = {(job, number): pk for job, number, pk in locking if (job, number) in keys}
    if len(free) == len(keys):
        return free, set()
    return free, {(job, number) for job, number, _ in columns.all() if (job, number) in keys} - free.keys()

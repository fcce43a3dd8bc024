"""Take over the attempts of expired workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.db.models import Model

from ..models import ContainerJob, JobAttempt
from ..statemachine.deadlocks import retries_deadlocks
from .isolation import Refused, isolated
from .leases import delete_expired_workers
from .sql import store_sql
from .sql.statements import StoreSQL

_RESCUE_BATCH = 1000
# An attempt of an expired worker: its row's id, its job's id, its number, that worker.
Orphan = tuple[Any, Any, int, str]


@retries_deadlocks
def rescue(
    *,
    worker: str,
    executors: Sequence[str],
    besides: Collection[int] = (),
    refused: Refused[Orphan] | None = None,
    using: str,
) -> int:
    """Take over the attempts of workers whose lease has expired; return how many.

    Only attempts of executors that this worker serves, or that no live worker serves. Expired workers are deleted: one
    that was only frozen must register again, under a new id. Rows locked by other transactions are skipped (SKIP
    LOCKED). ``refused`` is told of an attempt that the database refuses to hand over; without it the error is raised.
    ``besides``: none of these, by their rows' ids.
    """
    connection = connections[using]
    dialect = store_sql(connection)
    with connection.cursor() as cursor:
        # From here on an expired worker is one without a row: neither the clock nor a late renewal can undo that.
        delete_expired_workers(cursor, dialect, by=worker)
        served = dialect.unserved_executors(cursor, executors)
        if not served:
            return 0
        cursor.execute(
            "SELECT a.id, a.job_id, a.number, a.worker FROM container_manager_jobattempt a "
            f"WHERE a.finished_at IS NULL AND a.worker <> %s AND a.executor IN ({', '.join(['%s'] * len(served))}) "
            "AND NOT EXISTS (SELECT 1 FROM container_manager_worker w WHERE w.id = a.worker) LIMIT %s",
            [worker, *served, _RESCUE_BATCH],
        )
        orphaned = [row for row in cursor.fetchall() if row[0] not in besides]
        work = partial(_take_over, cursor, dialect, worker, using)
        return len(isolated(work, orphaned, refused=refused, using=using))


def _take_over(cursor: Any, dialect: StoreSQL, worker: str, using: str, orphaned: Sequence[Orphan]) -> Sequence[int]:
    taken = 0
    if not orphaned:
        return []
    with transaction.atomic(using=using):
        # A worker that froze while it finished attempts still holds locks on their rows.
        free = _locked(cursor, dialect, ContainerJob, {job for _, job, _, _ in orphaned})
        orphaned = [row for row in orphaned if row[1] in free]
        free = _locked(cursor, dialect, JobAttempt, {attempt for attempt, *_ in orphaned})
        # On condition that the expired worker still has it: another worker may rescue at the same time.
        for attempt, job, number, holder in (row for row in orphaned if row[0] in free):
            cursor.execute(
                "UPDATE container_manager_containerjob SET worker = %s "
                f"WHERE id = %s AND {dialect.by_key.format('status')} = 'running' AND worker = %s AND attempt = %s",
                [worker, job, holder, number],
            )
            cursor.execute(
                "UPDATE container_manager_jobattempt SET worker = %s "
                f"WHERE id = %s AND {dialect.by_key.format('worker')} = %s AND finished_at IS NULL",
                [worker, attempt, holder],
            )
            taken += cursor.rowcount
    return range(taken)


def _locked(cursor: Any, dialect: StoreSQL, model: type[Model], keys: Collection[Any]) -> set[Any]:
    """Lock rows in the order of their keys; return those that were locked (SKIP LOCKED)."""
    if not keys:
        return set()
    marks = ", ".join(["%s"] * len(keys))
    cursor.execute(f"SELECT id FROM {model._meta.db_table} WHERE id IN ({marks}) ORDER BY id{dialect.lock}", [*keys])
    return {row[0] for row in cursor.fetchall()}

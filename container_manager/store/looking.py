"""Look whether there is anything to do, in one statement: an idle worker asks no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db import connections

from .sql import store_sql
from .sql.lanes import Wanted


class Look(NamedTuple):
    """What there is to do for a worker.

    ``due``: jobs to claim, perhaps. ``retries``: retries to queue. ``orphaned``: workers whose leases have expired, or
    attempts without a worker. ``owns``: it has open attempts. ``maintains``: it holds the maintenance lease.
    """

    due: bool
    retries: bool
    orphaned: bool
    owns: bool
    maintains: bool


def look(*, worker: str, executors: Sequence[str], queues: Sequence[str] | None, using: str) -> Look:
    """Tell what there is to do; locks nothing.

    The maintenance lease is that of the oldest live worker. It needs no row of its own: when it expires, the next
    oldest has it at once. Two workers may believe to hold it for a moment, if one of them was frozen; so all
    maintenance is safe to do twice.
    """
    dialect = store_sql(connections[using])
    serves = bool(executors) and (queues is None or bool(queues))
    any_due, params = dialect.any_due(Wanted(executors, queues)) if serves else ("0", [])
    expired, retrying = dialect.lease_has_expired(row="w."), dialect.retrying
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT {any_due}, EXISTS (SELECT 1 FROM {retrying} AND scheduled_for <= {dialect.now}) "
            f"OR EXISTS (SELECT 1 FROM {retrying} AND scheduled_for IS NULL), "
            f"EXISTS (SELECT 1 FROM container_manager_worker w WHERE {expired} AND w.id <> %s) "
            "OR EXISTS (SELECT 1 FROM container_manager_jobattempt a WHERE a.finished_at IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM container_manager_worker w WHERE w.id = a.worker)), "
            "EXISTS (SELECT 1 FROM container_manager_jobattempt a WHERE a.finished_at IS NULL AND a.worker = %s), "
            f"(SELECT w.id FROM container_manager_worker w WHERE NOT {expired} ORDER BY w.started_at, w.id LIMIT 1)",
            [*params, worker, worker],
        )
        due, retries, orphaned, owns, maintainer = cursor.fetchone()
    return Look(bool(due), bool(retries), bool(orphaned), bool(owns), maintainer == worker)

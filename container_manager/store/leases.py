"""Workers' leases, on the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections, transaction

from ..models import Worker
from .sql import store_sql
from .sql.statements import StoreSQL


def register_worker(worker: Worker, *, lease_seconds: float, using: str) -> None:
    """Store a worker's row, with a lease from now on."""
    # At once: a row without a lease would be taken for that of a dead worker.
    with transaction.atomic(using=using):
        worker.save(using=using, force_insert=True)
        renew_lease(worker.id, lease_seconds=lease_seconds, using=using)


def renew_lease(worker: str, *, lease_seconds: float, using: str) -> bool:
    """Prolong a worker's lease; False where its row is gone: it must register anew, under another id."""
    connection = connections[using]
    later = store_sql(connection).after("%s")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE container_manager_worker SET lease_expires_at = {later} WHERE id = %s", [lease_seconds, worker]
        )
        return bool(cursor.rowcount)


def drop_lease(worker: str, *, using: str) -> None:
    """Remove a worker's row: it has ended, and what it still holds is for others at once."""
    Worker.objects.using(using).filter(pk=worker).delete()


def is_maintainer(worker: str, *, using: str) -> bool:
    """Tell whether a worker holds the maintenance lease: that of the oldest worker alive.

    It needs no row of its own: it ends with the worker's lease, and the next oldest has it at once. What the
    maintainer does is harmless when two do it, as they may in the moment in which one of them freezes.
    """
    return next(iter(live_workers(using=using)), None) == worker


def delete_expired_workers(cursor: Any, dialect: StoreSQL, *, by: str) -> None:
    """Remove the rows of workers whose lease has run out, but that of this one."""
    expired = f"lease_expires_at < {dialect.now}"
    cursor.execute(f"SELECT id FROM container_manager_worker WHERE {expired} AND id <> %s", [by])
    for (worker,) in cursor.fetchall():
        # One may have renewed it meanwhile. Each by its key: a DELETE that looks for them locks what it looks at.
        cursor.execute(f"DELETE FROM container_manager_worker WHERE id = %s AND {expired}", [worker])


def prepare_session(*, idle_seconds: float, using: str) -> None:
    """Make a connection a worker's: the database rolls back what it has begun and not gone on with for so long.

    A worker that freezes in the middle of a transaction, or loses its host, holds rows locked that others wait for.
    """
    connection = connections[using]
    for statement in store_sql(connection).session_settings(connection, idle_seconds=idle_seconds):
        with connection.cursor() as cursor:
            cursor.execute(statement)


def live_workers(*, using: str) -> Sequence[str]:
    """Return the ids of workers with a lease, the oldest first."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM container_manager_worker "
            f"WHERE lease_expires_at >= {store_sql(connection).now} ORDER BY started_at, id",
            [],
        )
        return [row[0] for row in cursor.fetchall()]

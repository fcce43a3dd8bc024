"""Workers' leases, on the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections, transaction

from ..models import Worker
from .sql import store_sql
from .sql.statements import StoreSQL


def register_worker(worker: Worker, *, lease_seconds: float, using: str) -> None:
    """Store a worker's row, with a lease that begins now."""
    # In one transaction: a row without a lease would be deleted as that of an expired worker.
    with transaction.atomic(using=using):
        worker.save(using=using, force_insert=True)
        renew_lease(worker.id, lease_seconds=lease_seconds, using=using)


def renew_lease(worker: str, *, lease_seconds: float, using: str) -> bool:
    """Renew the lease; return False if it was revoked: the worker must register again, under a new id."""
    connection = connections[using]
    later = store_sql(connection).after("%s")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE container_manager_worker SET lease_expires_at = {later} WHERE id = %s", [lease_seconds, worker]
        )
        return bool(cursor.rowcount)


def drop_lease(worker: str, *, using: str) -> None:
    """Delete a worker's row as it ends: others may rescue its open attempts at once."""
    Worker.objects.using(using).filter(pk=worker).delete()


def delete_expired_workers(cursor: Any, dialect: StoreSQL, *, by: str) -> None:
    """Delete workers whose lease has expired, except this one."""
    expired = f"lease_expires_at < {dialect.now}"
    cursor.execute(f"SELECT id FROM container_manager_worker WHERE {expired} AND id <> %s", [by])
    for (worker,) in cursor.fetchall():
        # One may have renewed its lease meanwhile. By key: a DELETE that scans locks all rows that it reads.
        cursor.execute(f"DELETE FROM container_manager_worker WHERE id = %s AND {expired}", [worker])


def prepare_session(*, idle_seconds: float, using: str) -> None:
    """Prepare a connection for a worker: the database rolls back transactions that are idle for this long.

    A worker that freezes in a transaction, or loses its host, would hold locks that others wait for.
    """
    connection = connections[using]
    for statement in store_sql(connection).session_settings(connection, idle_seconds=idle_seconds):
        with connection.cursor() as cursor:
            cursor.execute(statement)


def live_workers(*, using: str) -> Sequence[str]:
    """Return the ids of workers whose lease has not expired, the oldest first."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM container_manager_worker "
            f"WHERE lease_expires_at >= {store_sql(connection).now} ORDER BY started_at, id",
            [],
        )
        return [row[0] for row in cursor.fetchall()]

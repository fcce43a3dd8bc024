"""Workers' leases, on the database's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connections, transaction

from ..models import Worker
from .places import is_gone
from .sql import store_sql
from .sql.statements import StoreSQL


def register_worker(
    worker: Worker, *, lease_seconds: float, rescuable_seconds: float | None = None, using: str
) -> None:
    """Store a worker's row, with a lease that begins now."""
    # In one transaction: a row without a lease would be deleted as that of an expired worker.
    with transaction.atomic(using=using):
        worker.save(using=using, force_insert=True)
        renew_lease(worker.id, lease_seconds=lease_seconds, rescuable_seconds=rescuable_seconds, using=using)


def renew_lease(worker: str, *, lease_seconds: float, rescuable_seconds: float | None = None, using: str) -> bool:
    """Renew the lease; return False if it was revoked: the worker must register again, under a new id.

    ``rescuable_seconds``: how long others leave the worker its attempts, unless they know that its process is gone; at
    least as long as its lease.
    """
    connection = connections[using]
    later = store_sql(connection).after("%s")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE container_manager_worker SET lease_expires_at = {later}, rescuable_at = {later} WHERE id = %s",
            [lease_seconds, lease_seconds if rescuable_seconds is None else rescuable_seconds, worker],
        )
        return bool(cursor.rowcount)


def drop_lease(worker: str, *, using: str) -> None:
    """Delete a worker's row as it ends: others may rescue its open attempts at once."""
    Worker.objects.using(using).filter(pk=worker).delete()


def is_maintainer(worker: str, *, using: str) -> bool:
    """Tell whether a worker holds the maintenance lease: it is that of the oldest live worker.

    It needs no row of its own: when it expires, the next oldest has it at once. Two workers may believe to hold it for
    a moment, if one of them was frozen; so all maintenance is safe to do twice.
    """
    return next(iter(live_workers(using=using)), None) == worker


def delete_expired_workers(cursor: Any, dialect: StoreSQL, *, by: str) -> None:
    """Delete workers whose lease has expired, except this one.

    Only what is certain to be dead: its process is gone, or it is long enough ago that what it ran has ended.
    """
    expired = f"lease_expires_at < {dialect.now}"
    rescuable = f"(rescuable_at IS NULL OR rescuable_at < {dialect.now})"
    cursor.execute(
        f"SELECT id, place, pid, CASE WHEN {rescuable} THEN 1 ELSE 0 END FROM container_manager_worker "
        f"WHERE {expired} AND id <> %s",
        [by],
    )
    for worker, place, pid, is_rescuable in cursor.fetchall():
        if is_rescuable or is_gone(place, pid):
            # One may have renewed its lease meanwhile. By key: a DELETE that scans locks all rows that it reads.
            condition = f"{expired} AND {rescuable}" if is_rescuable else expired
            cursor.execute(f"DELETE FROM container_manager_worker WHERE id = %s AND {condition}", [worker])


def prepare_session(*, lease_seconds: float, using: str) -> None:
    """Prepare a connection for a worker: nothing waits in the database for as long as a lease lasts.

    A transaction that is idle for that long is rolled back: a worker that freezes in one, or loses its host, would hold
    locks that others wait for. Locks and statements are waited for less long.
    """
    connection = connections[using]
    for statement in store_sql(connection).session_settings(connection, lease_seconds=lease_seconds):
        with connection.cursor() as cursor:
            cursor.execute(statement)


def connect_options(*, seconds: float, using: str) -> Mapping[str, Any]:
    """Return the options of the database's driver that limit how long it takes to connect."""
    return store_sql(connections[using]).connect_options(seconds=seconds)


def has_timed_out(error: BaseException, *, using: str) -> bool:
    """Tell whether a lock was not free in time, or a statement took too long: the same may succeed later."""
    return store_sql(connections[using]).has_timed_out(error)


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

"""Workers' leases, on the database's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction

from ..models import Worker
from .clock import database_now
from .places import is_gone
from .sql import store_sql


class Lease(NamedTuple):
    """A worker's lease.

    ``expires_at``: as the driver returns it, to compare with an earlier one only. ``is_over``: it has expired, and what
    ended with its worker has ended: that worker's process is gone, or it is long enough ago.
    """

    worker: str
    expires_at: Any
    is_over: bool


def register_worker(
    worker: Worker, *, lease_seconds: float, rescuable_seconds: float | None = None, using: str
) -> None:
    """Store a worker's row, with a lease that begins now: the oldest worker is told by the lease's clock, too."""
    worker.started_at = database_now(using=using)
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


def other_leases(*, worker: str, using: str) -> list[Lease]:
    """Return the leases of all other workers."""
    connection = connections[using]
    dialect = store_sql(connection)
    has_expired = dialect.lease_has_expired()
    is_over = f"{has_expired} AND (rescuable_at IS NULL OR rescuable_at < {dialect.now})"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id, lease_expires_at, place, pid, CASE WHEN {has_expired} THEN 1 ELSE 0 END, "
            f"CASE WHEN {is_over} THEN 1 ELSE 0 END FROM container_manager_worker WHERE id <> %s",
            [worker],
        )
        return [
            Lease(key, expires_at, bool(is_over or (has_expired and is_gone(place, pid))))
            for key, expires_at, place, pid, has_expired, is_over in cursor.fetchall()
        ]


def delete_expired_worker(worker: str, *, using: str) -> bool:
    """Delete a worker unless it has renewed its lease meanwhile: neither the clock nor a late renewal can undo that.

    One that was only frozen must register again, under a new id.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        # By key: a DELETE that scans locks all rows that it reads.
        cursor.execute(
            f"DELETE FROM container_manager_worker WHERE id = %s AND {store_sql(connection).lease_has_expired()}",
            [worker],
        )
        return bool(cursor.rowcount)


def record_engines(worker: str, engines: Mapping[str, str], away: Mapping[str, float], *, using: str) -> None:
    """Store by alias the identity of the engine that answers there, and since how many seconds one does not answer."""
    now = database_now(using=using) if away else None
    since = {alias: (now - timedelta(seconds=seconds)).isoformat() for alias, seconds in away.items() if now}
    Worker.objects.using(using).filter(pk=worker).update(engines=dict(engines), engines_away=since)


def engines_by_alias(*, using: str) -> dict[str, dict[str, list[str]]]:
    """Return by alias the engines that live workers reach under it, each with the hosts of these workers."""
    found: dict[str, dict[str, list[str]]] = {}
    rows = Worker.objects.using(using).filter(pk__in=live_workers(using=using)).order_by("host")
    for host, engines in rows.values_list("host", "engines"):
        for alias, engine in engines.items():
            hosts = found.setdefault(alias, {}).setdefault(engine, [])
            if host not in hosts:
                hosts.append(host)
    return found


def live_workers(*, using: str) -> Sequence[str]:
    """Return the ids of workers whose lease has not expired, the oldest first."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM container_manager_worker "
            f"WHERE {store_sql(connection).lease_holds()} ORDER BY started_at, id",
            [],
        )
        return [row[0] for row in cursor.fetchall()]

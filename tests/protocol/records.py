"""Rows of workers, and everything that the database has of a job."""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.db.models import Model
from django.utils import timezone

from container_manager import store
from container_manager.models import ContainerJob, JobAttempt, JobLog, JobTransition, Worker
from container_manager.store.sql import store_sql

Rows = list[dict[str, Any]]


def records_of(job: ContainerJob) -> dict[str, Rows]:
    """Return every column of a job, its attempts, logs and journal."""
    found = {
        "job": ContainerJob.objects.filter(pk=job.pk),
        "attempts": JobAttempt.objects.filter(job=job).order_by("number"),
        "logs": JobLog.objects.filter(attempt__job=job).order_by("attempt__number", "sequence"),
        "journal": JobTransition.objects.filter(job=job).order_by("pk"),
    }
    return {name: [_plain(row) for row in rows.values()] for name, rows in found.items()}


def register(worker: str, *, executors: tuple[str, ...] = ("default",), lease_seconds: float = 60.0) -> None:
    """Store a worker's row. A negative lease has expired already."""
    row = Worker(id=worker, host="h", pid=1, executors=list(executors), lease_expires_at=timezone.now())
    store.register_worker(row, lease_seconds=lease_seconds, using="default")


def expire_lease(worker: str) -> None:
    """Let a worker's lease expire, by the database's clock."""
    assert store.renew_lease(worker, lease_seconds=-1.0, using="default")


def bury(by: str) -> None:
    """Delete the rows of workers whose lease has expired, as a worker does that has watched them for a while."""
    for lease in store.other_leases(worker=by, using="default"):
        if lease.is_over:
            store.delete_expired_worker(lease.worker, using="default")


def rescue(worker: str, **engines: str) -> int:
    """Rescue as a worker does that reaches these engines: executor and identity."""
    bury(worker)
    return store.rescue(worker=worker, engines=engines, using="default")


def seconds_since(row: Model, column: str) -> float:
    """Return how long ago a time stored in a row is, by the database's clock."""
    key = row._meta.pk.get_db_prep_value(row.pk, connection)
    sql = f"SELECT {store_sql(connection).seconds_since(column)} FROM {row._meta.db_table} WHERE id = %s"
    with connection.cursor() as cursor:
        cursor.execute(sql, [key])
        return float(cursor.fetchone()[0])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}

"""The open attempts of a worker: list them, and store their handles."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from django.db import connections, transaction

from ..models import ContainerJob
from ..statemachine.deadlocks import retries_deadlocks
from .sql import store_sql
from .values import JOB_COLUMNS, OwnedAttempt, claimed_job


def owned_attempts(*, worker: str, using: str) -> list[OwnedAttempt]:
    """Return every open attempt of this worker; what it believes to run is compared with that."""
    dialect = store_sql(connections[using])
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join('j.' + name for name in JOB_COLUMNS)}, {dialect.seconds_since('a.launched_at')}, "
            "a.number, CASE WHEN j.attempt = a.number THEN j.status ELSE '' END, a.engine, a.handle, "
            "j.status_changed_by "
            "FROM container_manager_jobattempt a "
            "JOIN container_manager_containerjob j ON j.id = a.job_id WHERE a.worker = %s AND a.finished_at IS NULL",
            [worker],
        )
        rows = cursor.fetchall()
    return [
        OwnedAttempt(
            job=claimed_job(row[: len(JOB_COLUMNS) + 1], attempt=row[-5]),
            status=row[-4],
            engine=row[-3],
            handle=row[-2],
            claimed_by=row[-1],
        )
        for row in rows
    ]


@retries_deadlocks
def record_handles(handles: Collection[tuple[tuple[uuid.UUID, int], str]], *, worker: str, using: str) -> None:
    """Store handles by (job id, attempt); attempts that are closed or not this worker's stay as they are."""
    connection, key = connections[using], ContainerJob._meta.pk
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE container_manager_jobattempt SET handle = %s "
            "WHERE job_id = %s AND number = %s AND worker = %s AND finished_at IS NULL",
            [(handle, key.get_db_prep_value(job, connection), number, worker) for (job, number), handle in handles],
        )

"""Store attempts' output."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connections
from django.db.models import BinaryField

from ..models import ContainerJob
from ..statemachine.deadlocks import retries_deadlocks
from .sql import store_sql
from .values import LogChange

# An attempt that is open and this worker's.
_MINE = "container_manager_jobattempt WHERE job_id = %s AND number = %s AND worker = %s AND finished_at IS NULL"


@retries_deadlocks
def store_logs(changes: Sequence[LogChange], *, worker: str, using: str) -> None:
    """Store output of open attempts of this worker; output of other attempts is dropped.

    Idempotent: a batch whose commit is uncertain can be sent again.
    """
    if not changes:
        return
    connection = connections[using]
    dialect, binary, key = store_sql(connection), BinaryField(), ContainerJob._meta.pk
    deletions, insertions = [], []
    for change in changes:
        mine = (key.get_db_prep_value(change.job_id, connection), change.attempt, worker)
        if change.gone is not None:
            deletions.append((*mine, *change.gone))
        insertions += [
            (entry.sequence, entry.stream, binary.get_db_prep_value(entry.data, connection), *mine)
            for entry in change.entries
        ]
    with connection.cursor() as cursor:
        if deletions:
            cursor.executemany(
                f"DELETE FROM container_manager_joblog WHERE attempt_id = (SELECT id FROM {_MINE}) "
                "AND sequence >= %s AND sequence < %s",
                deletions,
            )
        cursor.executemany(
            dialect.insert_ignoring_duplicates(
                f"container_manager_joblog (attempt_id, sequence, stream, data) SELECT id, %s, %s, %s FROM {_MINE}"
            ),
            insertions,
        )

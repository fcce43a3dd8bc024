"""Store attempts' output."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connections
from django.db.models import BinaryField

from ..models import ContainerJob
from ..statemachine.deadlocks import retries_deadlocks
from .dialects import dialect_for

# An attempt that is open and this worker's.
_MINE = "container_manager_jobattempt WHERE job_id = %s AND number = %s AND worker = %s AND finished_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A piece of output at its place within the attempt."""

    sequence: int
    stream: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChange:
    """Output to store of one attempt. ``gone``: the first stored entry to delete before, and the first to keep."""

    job_id: uuid.UUID
    attempt: int
    entries: Sequence[LogEntry]
    gone: tuple[int, int] | None = None


@retries_deadlocks
def store_logs(changes: Sequence[LogChange], *, worker: str, using: str) -> None:
    """Store output of attempts that are open and this worker's; that of others is dropped.

    To store a change twice is harmless, so a batch whose fate is unknown can be sent again.
    """
    if not changes:
        return
    connection = connections[using]
    dialect, binary, key = dialect_for(connection), BinaryField(), ContainerJob._meta.pk
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

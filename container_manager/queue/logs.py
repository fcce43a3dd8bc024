"""Store attempts' output."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connections
from django.db.models import BinaryField

from ..models import ContainerJob
from .dialects import dialect_for


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A piece of output to store, at its place within the attempt."""

    job_id: uuid.UUID
    attempt: int
    sequence: int
    stream: str
    data: bytes


def append_logs(entries: Sequence[LogEntry], *, worker: str, using: str) -> None:
    """Store output of attempts that are open and this worker's; that of others is dropped.

    Storing an entry twice is harmless, so a batch whose fate is unknown can be sent again.
    """
    if not entries:
        return
    connection = connections[using]
    binary, key = BinaryField(), ContainerJob._meta.pk
    params = [
        (
            entry.sequence,
            entry.stream,
            binary.get_db_prep_value(entry.data, connection),
            key.get_db_prep_value(entry.job_id, connection),
            entry.attempt,
            worker,
        )
        for entry in entries
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            dialect_for(connection).insert_ignoring_duplicates(
                "container_manager_joblog (attempt_id, sequence, stream, data) SELECT id, %s, %s, %s "
                "FROM container_manager_jobattempt "
                "WHERE job_id = %s AND number = %s AND worker = %s AND finished_at IS NULL"
            ),
            params,
        )

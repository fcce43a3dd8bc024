"""How fast many jobs are enqueued at once, beside a hand-written INSERT of the same columns."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

_BATCH = 1000


def measure_bulk(connection: psycopg.Connection, *, count: int, rounds: int) -> tuple[float, float]:
    """Return jobs per second of ours and of the hand-written INSERT: medians of interleaved rounds."""
    ours, floor = [], []
    for _ in range(rounds):
        for rates, insert in ((floor, _insert), (ours, _enqueue)):
            start = time.perf_counter()
            insert(connection, count)
            rates.append(count / (time.perf_counter() - start))
            connection.execute("TRUNCATE container_manager_containerjob CASCADE")
    return statistics.median(ours), statistics.median(floor)


def _enqueue(connection: psycopg.Connection, count: int) -> None:
    from container_manager.models import ContainerJob
    from container_manager.queue import enqueue_many

    enqueue_many(ContainerJob(command="process --item", name=str(number)) for number in range(count))


def _insert(connection: psycopg.Connection, count: int) -> None:
    """Insert the rows as `_enqueue` does: the same columns, batches, keys and one transaction."""
    from container_manager.jobs.identifiers import uuid7
    from container_manager.models import ContainerJob

    fields = ContainerJob._meta.concrete_fields
    sample = ContainerJob(command="process --item", status="queued", queued_at=datetime.now(UTC))
    values = [getattr(sample, field.attname) for field in fields]
    row = [Jsonb(value) if isinstance(value, dict) else value for value in values]
    names = [field.attname for field in fields]
    key, name = names.index("id"), names.index("name")
    one = sql.SQL("({})").format(sql.SQL(", ").join([sql.Placeholder()] * len(row)))
    head = sql.SQL("INSERT INTO {} ({}) VALUES ").format(
        sql.Identifier(ContainerJob._meta.db_table),
        sql.SQL(", ").join(sql.Identifier(field.column) for field in fields),
    )
    with connection.transaction():
        for done in range(0, count, _BATCH):
            size = min(_BATCH, count - done)
            parameters: list[object] = []
            for number in range(done, done + size):
                row[key], row[name] = uuid7(), str(number)
                parameters += row
            connection.execute(head + sql.SQL(", ").join([one] * size), parameters)

"""The floor: the least that a queue in PostgreSQL can do, by hand. Two statements and two commits for each batch."""

from __future__ import annotations

import os
from collections.abc import Callable

import psycopg

from ..server import address
from .base import Contender

# What every queue keeps of a job: its order, its payload, who ran it and when.
_TABLE = """
CREATE TABLE IF NOT EXISTS floor_job (
    id bigint PRIMARY KEY, priority smallint NOT NULL DEFAULT 0, payload text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'queued', worker text, started_at timestamptz, finished_at timestamptz)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS floor_job_claim ON floor_job (priority DESC, id) WHERE status = 'queued'"
_CLAIM = """
UPDATE floor_job SET status = 'running', worker = %s, started_at = now() WHERE id IN (
    SELECT id FROM floor_job WHERE status = 'queued' ORDER BY priority DESC, id LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id, payload
"""
_FINISH = "UPDATE floor_job SET status = 'done', finished_at = now() WHERE id = ANY(%s)"


class Floor(Contender):
    """Claims and finishes ``batch`` jobs at a time."""

    def __init__(self, batch: int, per_second: int) -> None:
        self.name = f"floor, {batch} at a time"
        self.batch, self.per_second = batch, per_second

    def prepare(self, folder: str) -> None:
        with psycopg.connect(address(folder)) as connection:
            connection.execute(_TABLE)
            connection.execute(_INDEX)

    def fill(self, connection: psycopg.Connection, count: int) -> None:
        connection.execute("TRUNCATE floor_job")
        connection.execute("INSERT INTO floor_job (id) SELECT generate_series(1, %s)", [count])
        connection.execute("VACUUM ANALYZE floor_job")

    def unfinished(self, connection: psycopg.Connection) -> int:
        return connection.execute("SELECT count(*) FROM floor_job WHERE status <> 'done'").fetchone()[0]

    def work(self, folder: str, ready: Callable[[], None]) -> None:
        with psycopg.connect(address(folder), autocommit=True) as connection:
            worker = str(os.getpid())
            ready()
            while keys := [row[0] for row in connection.execute(_CLAIM, [worker, self.batch])]:
                connection.execute(_FINISH, [keys])


CONTENDERS = [Floor(100, 22000), Floor(1, 800)]

"""pgqueuer: asyncpg, uvloop, batches of 100."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

import psycopg

from .base import Contender

_BATCH = 100


@asynccontextmanager
async def _driver(folder: str):
    import asyncpg
    from pgqueuer.db import AsyncpgDriver

    from ..server import DATABASE

    connection = await asyncpg.connect(host=folder, user="postgres", database=DATABASE)
    try:
        yield AsyncpgDriver(connection)
    finally:
        await connection.close()


class Pgqueuer(Contender):
    name = "pgqueuer"
    per_second = 8000

    def prepare(self, folder: str) -> None:
        from pgqueuer.queries import Queries

        async def install() -> None:
            async with _driver(folder) as driver:
                await Queries(driver).install()

        asyncio.run(install())

    def fill(self, connection: psycopg.Connection, count: int) -> None:
        import os

        from pgqueuer.queries import Queries

        async def enqueue() -> None:
            async with _driver(os.environ["BENCH_SOCKET"]) as driver:
                queries = Queries(driver)
                for done in range(0, count, 5000):
                    size = min(5000, count - done)
                    await queries.enqueue(["noop"] * size, [None] * size, [0] * size)

        connection.execute("TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics")
        asyncio.run(enqueue())
        connection.execute("VACUUM ANALYZE pgqueuer")

    def unfinished(self, connection: psycopg.Connection) -> int:
        return connection.execute("SELECT count(*) FROM pgqueuer").fetchone()[0]

    def work(self, folder: str, ready: Callable[[], None]) -> None:
        import uvloop
        from pgqueuer import QueueManager
        from pgqueuer.queries import Queries
        from pgqueuer.types import QueueExecutionMode

        async def run() -> None:
            async with _driver(folder) as driver:
                manager = QueueManager(Queries(driver))

                @manager.entrypoint("noop")
                async def noop(job: object) -> None:
                    """Do nothing."""

                ready()
                await manager.run(batch_size=_BATCH, mode=QueueExecutionMode.drain)

        uvloop.run(run())


CONTENDERS = [Pgqueuer()]

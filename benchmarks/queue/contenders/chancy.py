"""Chancy: the asyncio executor, many jobs at once, polling as soon as there is room."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

import psycopg

from ..server import address
from .base import Contender

_CONCURRENCY = 1000
_LOOK_SECONDS = 0.02


async def noop() -> None:
    """Do nothing."""


def _log() -> logging.Logger:
    logger = logging.getLogger("benchmark-chancy")
    logger.setLevel(logging.ERROR)
    return logger


class ChancyContender(Contender):
    name = "Chancy"
    per_second = 1800

    def prepare(self, folder: str) -> None:
        from chancy import Chancy, Queue

        async def migrate() -> None:
            async with Chancy(address(folder), log=_log()) as chancy:
                await chancy.migrate()
                await chancy.declare(
                    Queue(
                        "default",
                        concurrency=_CONCURRENCY,
                        executor=Chancy.Executor.Async,
                        polling_interval=1,
                        eager_polling=True,
                    ),
                    upsert=True,
                )

        asyncio.run(migrate())

    def fill(self, connection: psycopg.Connection, count: int) -> None:
        from chancy import Chancy, Job

        connection.execute("TRUNCATE chancy_jobs")
        with Chancy(address(os.environ["BENCH_SOCKET"]), log=_log()) as chancy:
            for _ in chancy.sync_push_many([Job.from_func(noop)] * count):
                pass
        connection.execute("VACUUM ANALYZE chancy_jobs")

    def unfinished(self, connection: psycopg.Connection) -> int:
        return connection.execute("SELECT count(*) FROM chancy_jobs WHERE state <> 'succeeded'").fetchone()[0]

    def work(self, folder: str, ready: Callable[[], None]) -> None:
        from chancy import Chancy, Worker

        async def run() -> None:
            async with Chancy(address(folder), log=_log()) as chancy:
                worker = Worker(chancy, register_signal_handlers=False)
                # It stores ends once a second by default: let it do so at once.
                worker.send_outgoing_interval = _LOOK_SECONDS
                ready()
                async with worker:
                    await _drained(folder)

        asyncio.run(run())


async def _drained(folder: str) -> None:
    """Wait until no job is unfinished: it has no way to end by itself."""
    async with await psycopg.AsyncConnection.connect(address(folder), autocommit=True) as connection:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            cursor = await connection.execute("SELECT 1 FROM chancy_jobs WHERE state IN ('pending', 'running') LIMIT 1")
            if await cursor.fetchone() is None:
                return


CONTENDERS = [ChancyContender()]

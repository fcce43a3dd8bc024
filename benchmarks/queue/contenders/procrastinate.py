"""procrastinate: psycopg, ten jobs at once (more made it slower)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import psycopg

from ..server import address
from .base import Contender

_CONCURRENCY = 10


def _app(folder: str) -> Any:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=address(folder), max_size=_CONCURRENCY + 2))

    @app.task(name="noop")
    async def noop() -> None:
        """Do nothing."""

    return app


class Procrastinate(Contender):
    name = "procrastinate"
    per_second = 450

    def prepare(self, folder: str) -> None:
        with _app(folder).open() as app:
            app.schema_manager.apply_schema()

    def fill(self, connection: psycopg.Connection, count: int) -> None:
        connection.execute("TRUNCATE procrastinate_jobs, procrastinate_events, procrastinate_workers CASCADE")
        with _app(os.environ["BENCH_SOCKET"]).open() as app:
            app.tasks["noop"].batch_defer(*([{}] * count))
        connection.execute("VACUUM ANALYZE procrastinate_jobs")

    def unfinished(self, connection: psycopg.Connection) -> int:
        return connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'").fetchone()[0]

    def work(self, folder: str, ready: Callable[[], None]) -> None:
        async def run() -> None:
            app = _app(folder)
            async with app.open_async():
                ready()
                await app.run_worker_async(wait=False, concurrency=_CONCURRENCY, install_signal_handlers=False)

        asyncio.run(run())


CONTENDERS = [Procrastinate()]

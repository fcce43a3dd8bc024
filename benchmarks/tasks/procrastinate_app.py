"""procrastinate with its synchronous tasks, which run in threads."""

import os

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from benchmarks.queue.server import address

_is_worker = "worker" in os.environ.get("BENCH_ROLE", "")
_connector = PsycopgConnector if _is_worker else SyncPsycopgConnector
app = App(
    connector=_connector(conninfo=address(os.environ["BENCH_SOCKET"])), import_paths=["benchmarks.tasks.functions"]
)

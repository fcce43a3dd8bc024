"""``python -m benchmarks.transitions``: on SQLite and on PostgreSQL, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from container_manager.standalone import sqlite_database

from ..measure import Figure
from ..queue.server import DATABASE, server
from ..report import report


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        database: dict[str, Any] = sqlite_database(Path(folder) / "bench.sqlite3")
        figures = _run({**database, "NAME": str(database["NAME"])})
    with server() as folder:
        engine = "django.db.backends.postgresql"
        figures += _run({"ENGINE": engine, "NAME": DATABASE, "USER": "postgres", "HOST": folder})
    return figures


def _run(database: dict[str, Any]) -> list[Figure]:
    environment = {**os.environ, "BENCH_DATABASE": json.dumps(database)}
    command = [sys.executable, "-m", "benchmarks.transitions.run"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Figure(**values) for values in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(report(measure(), "transitions"))

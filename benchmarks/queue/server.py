"""A PostgreSQL server of the benchmark's own, as durable as in production: fsync and synchronous_commit are on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

DATABASE = "bench"
_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    # No checkpoint in the middle of one contender's turn.
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
}
_START_SECONDS = 60


def address(folder: str) -> str:
    return f"host={folder} user=postgres dbname={DATABASE}"


@contextmanager
def server() -> Iterator[str]:
    """Run a server in a temporary folder, with an empty database; give the folder of its socket."""
    if not _PROGRAMS.is_dir():
        sys.exit(f"No PostgreSQL 15 server in {_PROGRAMS}: install the package postgresql-15 and try again.")
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        data = Path(folder) / "data"
        initialise = [_PROGRAMS / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
        options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
        with (Path(folder) / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [_PROGRAMS / "postgres", "-D", data, "-k", folder, *options], stdout=log, stderr=log, cwd=folder, **user
            )
            try:
                _create_database(folder, process)
                yield folder
            finally:
                # PostgreSQL's fast shutdown: it does not wait for clients.
                process.send_signal(signal.SIGINT)
                process.wait(timeout=_START_SECONDS)


def _create_database(folder: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
                return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The database server could not be reached: {error}")
            time.sleep(0.1)

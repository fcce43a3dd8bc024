"""A PostgreSQL server as durable as in production: the tests' own server runs with fsync off."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_PROGRAMS = Path("/usr/lib/postgresql")
# No vacuum and no checkpoint in the middle of one contender's turn.
_OPTIONS = {"listen_addresses": "''", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}


class NoServer(Exception):
    """This machine has no PostgreSQL server."""


@contextmanager
def postgresql(folder: Path) -> Iterator[Path]:
    """Run the newest PostgreSQL that the system has; give the folder of its socket.

    Raises NoServer.
    """
    installed = sorted(_PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not installed:
        raise NoServer(f"no PostgreSQL server in {_PROGRAMS}")
    programs, data = installed[-1], folder / "data"
    # PostgreSQL does not run as root.
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, **user)
    options = " ".join(f"-c {name}={value}" for name, value in {**_OPTIONS, "unix_socket_directories": folder}.items())
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
    control = [programs / "pg_ctl", "-D", data, "-w", "-s"]
    run([programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"])
    run([*control, "-l", folder / "server.log", "-o", options, "start"])
    try:
        yield folder
    finally:
        run([*control, "-m", "fast", "stop"])

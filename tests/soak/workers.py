"""Worker processes, and waiting for what they do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_LIMIT_SECONDS = 900


def start_worker(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "django", "container", "worker", "--log-level", "WARNING", *options]
    with (folder / "workers.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def await_that(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds of the database or of other processes, which have no event for this one.

    Raises TimeoutError.
    """
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {_LIMIT_SECONDS} s in vain: {what}.")
        time.sleep(0.05)


def said(folder: Path) -> list[str]:
    """Return the warnings and errors of the workers."""
    return (folder / "workers.log").read_text().splitlines()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

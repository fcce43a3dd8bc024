"""Worker processes on the tests' own database, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connection

from container_manager.models import Worker

PATIENCE_SECONDS = 60


def start_worker(*options: str, log: Path, lease_seconds: float = 30.0, **variables: str) -> subprocess.Popen[bytes]:
    """Start ``container worker``; what it logs is appended to a file."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
        "CM_WORKER_LEASE_SECONDS": str(lease_seconds),
        # An illegal stage of a run is only a warning in production.
        "PYTHONWARNINGS": "error::RuntimeWarning",
        **variables,
    }
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "django", "container", "worker", *options]
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)


@contextmanager
def worker(*options: str, log: Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker, yield its process once it is registered, and kill it at the end if it still runs."""
    process = start_worker(*options, log=log, **more)
    try:
        eventually(lambda: process.poll() is not None or Worker.objects.filter(pid=process.pid).exists())
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until a condition is true and return its value; there is no event from another process to wait for."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.02)
    return value

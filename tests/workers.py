"""Worker processes on the tests' own database, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connection

from container_manager.models import Worker

from .polling import eventually


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
        # One that was given an end to its work may have come to it by now.
        assert process.poll() in (None, 0), log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()

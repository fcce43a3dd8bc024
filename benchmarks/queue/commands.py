"""The command line of a worker, as a user starts it."""

from __future__ import annotations

import sys


def worker_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "container_manager", "worker", *options]

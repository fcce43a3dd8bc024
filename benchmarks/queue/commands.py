"""The command line of a worker, as a user starts it."""

from __future__ import annotations

import sys


def worker_command(*options: str) -> list[str]:
    # What a worker logs to a terminal is no part of what is measured.
    return [sys.executable, "-m", "container_manager", "worker", "--log-level", "WARNING", *options]

"""What disturbs a worker from inside its own process: receivers that are slow, a wall clock that jumps, a host's name.

The chaos test asks for a disturbance by a file in the folder CHAOS_CONTROL, named for it, with a number of seconds. The
first worker to find it renames it, which says that it happened.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from django.utils import timezone

SLOW, CLOCK = "receivers slow", "clock jumped"
TAKEN = ".taken"
CONTROL = Path(os.environ["CHAOS_CONTROL"]) if "CHAOS_CONTROL" in os.environ else None
_real_time, _real_nanoseconds, _real_now = time.time, time.time_ns, timezone.now


class _Clock:
    shift = 0.0


def take(name: str) -> float | None:
    """Return the seconds of a disturbance that was asked for, once; None if there is none."""
    assert CONTROL is not None
    asked = CONTROL / name
    try:
        # Read first: who has asked removes what is taken.
        seconds = float(asked.read_text())
        asked.rename(CONTROL / f"{name}.{os.getpid()}.{time.monotonic_ns()}{TAKEN}")
    except OSError:
        return None
    return seconds


def be_slow(**_: Any) -> None:
    """Receive `job_transitioned`, and take long for it if that was asked for."""
    if (seconds := take(SLOW)) is not None:
        time.sleep(seconds)  # the receiver's slowness is the experiment


def _shift() -> float:
    if (seconds := take(CLOCK)) is not None:
        _Clock.shift = seconds
    return _Clock.shift


def disturb(host: str) -> None:
    """Let this process's wall clock jump when it is asked to, and be on a host of this name."""
    from datetime import timedelta

    time.time = lambda: _real_time() + _shift()
    time.time_ns = lambda: _real_nanoseconds() + int(_shift() * 1e9)
    timezone.now = lambda: _real_now() + timedelta(seconds=_shift())  # type: ignore[assignment]
    socket.gethostname = lambda: host

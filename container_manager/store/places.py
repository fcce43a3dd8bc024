"""Tell whether a worker's process is gone, where that can be seen from here."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


@cache
def this_place() -> str:
    """Return what names this host since it was started, and its namespace of process ids; "" if that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        host = socket.gethostname().encode(errors="backslashreplace").decode()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}/{host}"[:255]
    except OSError:
        return ""


def is_gone(place: str, pid: int) -> bool:
    """Tell whether it is certain that a process has ended: False for one of another place, or if its pid is in use."""
    if not place or place != this_place():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        # It exists, and is another user's.
        return False
    return False

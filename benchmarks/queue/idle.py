"""What a worker costs while there is nothing to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .pickup import running_worker

_SETTLE_SECONDS = 2.0


def measure_idle(seconds: float) -> float:
    """Return the share of one core that an idle worker and the processes it started use."""
    with running_worker() as process:
        time.sleep(_SETTLE_SECONDS)
        before, start = cpu_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(process.pid) - before) / (time.monotonic() - start)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, living and gone."""
    # proc(5): after the name in brackets, fields 14 to 17 are utime, stime, cutime and cstime.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_seconds(int(child)) for child in children)

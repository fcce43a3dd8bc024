"""The tasks of all contenders, declared with the decorator of the one whose turn it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .contenders import contender

task = contender(os.environ["BENCH_CONTENDER"]).decorator()


@task
def noop() -> None:
    """Do nothing."""


@task
def mark(path: str) -> None:
    """Write down when it was started, in nanoseconds."""
    moment = time.time_ns()
    Path(f"{path}.new").write_text(str(moment))
    Path(f"{path}.new").rename(path)

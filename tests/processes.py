"""What tests ask of processes that they did not start."""

from __future__ import annotations

from pathlib import Path


def has_ended(pid: int | str) -> bool:
    """Tell whether a process has ended, reaped or not.

    One look decides: between a look that finds it and a second one it may end.
    """
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True

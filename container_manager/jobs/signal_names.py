"""Names of signals."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL; "unknown" where this host has none of that number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"

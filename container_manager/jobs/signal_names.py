"""Names of signals, and the exit codes that stand for them."""

from __future__ import annotations

import signal

# Shells, container runtimes and init processes report a program that a signal has ended as an exit code above this.
_SIGNAL_BASE = 128


def exit_code_of(number: int) -> int:
    """Return the exit code that stands for a signal."""
    return _SIGNAL_BASE + number


def signal_of(code: int) -> int | None:
    """Return the signal that an exit code stands for; None if it stands for none."""
    number = code - _SIGNAL_BASE
    return number if number in signal.valid_signals() else None


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL; "unknown" where this host has none of that number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"

"""What a container's end means: the daemon's words as an exit status."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from ..base import ExitStatus

# A shell's way to tell of a signal, which the daemon and its init process share.
_SIGNAL_BASE = 128
# How the init process ends where it could not start the command: for another reason, not executable, not found.
INIT_FAILURES = (1, 126, 127)
_INIT_SAYS = re.compile(r"\[FATAL tini \(\d+\)\] exec (?P<program>.+) failed: (?P<why>.+)")


def exit_status(state: Mapping[str, Any], *, out_of_memory: bool, last_words: str = "") -> ExitStatus:
    """Return how a container ended.

    ``state``: the daemon's. ``out_of_memory``: whether it has said so by an event, which it does even where its state
    does not know. ``last_words``: what an init process printed last. A child that ran out of memory is no failure of a
    command that then ended well.
    """
    code = int(state["ExitCode"])
    if code in INIT_FAILURES and (words := _INIT_SAYS.search(last_words)):
        return ExitStatus(
            code=code, unstarted=True, message=f"{words['program']!r} could not be started: {words['why'].strip()}."
        )
    oom = code != 0 and (bool(state.get("OOMKilled")) or out_of_memory)
    return ExitStatus(code=code, signal=None if oom else _signal(code), oom=oom, message=str(state.get("Error") or ""))


def _signal(code: int) -> int | None:
    number = code - _SIGNAL_BASE
    return number if number in signal.valid_signals() else None

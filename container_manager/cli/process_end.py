"""What ends a command from outside: signals, and a reader of its output that is gone."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command in order. SIGHUP only where it is not ignored, as nohup has it."""
    ends = [signal.SIGTERM, signal.SIGINT]
    return ends if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*ends, signal.SIGHUP]


def when_stdout_closes(act: Callable[[], None]) -> None:
    """Call ``act`` in a thread once the reader of a pipe that is the standard output has closed it."""
    descriptor = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return
    poll = select.poll()
    # No event is asked for: an error, which this is, is reported in any case.
    poll.register(descriptor, 0)

    def wait() -> None:
        poll.poll()
        act()

    threading.Thread(target=wait, name="container-manager-stdout", daemon=True).start()

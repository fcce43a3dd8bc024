"""What ends a command from outside: signals, and a reader of its output that is gone."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command in order. SIGHUP only where it is not ignored, as nohup has it."""
    ends = [signal.SIGTERM, signal.SIGINT]
    return ends if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*ends, signal.SIGHUP]


@contextmanager
def ended_by_signals(end: Callable[[], None]) -> Iterator[None]:
    """Call ``end`` for each of `ending_signals` meanwhile, and give back the handlers that were there.

    Only Python's main thread can have handlers: in another one signals go on to do what they did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: end()) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was not set from Python, and cannot be set again from there.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


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

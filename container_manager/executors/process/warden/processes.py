"""What the kernel offers for processes: signals, children, and who inherits orphans (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> None:
    """Have this signal sent to this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, value, 0, 0, 0)


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def wakeup_on(*numbers: int) -> int:
    """Return a descriptor that becomes readable when one of these signals arrives."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reader


def readable(sources: Sequence[Any], timeout: float | None) -> list[Any]:
    """Wait until one of these can be read, at most ``timeout`` seconds; return those that can."""
    # Not select(): it refuses descriptors above 1,023, and the worker chooses the number of the warden's.
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(None if timeout is None else ceil(timeout * 1000))}
    return [source for source in sources if (source if isinstance(source, int) else source.fileno()) in ready]

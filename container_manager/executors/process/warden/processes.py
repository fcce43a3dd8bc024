"""What the kernel offers for processes: signals, children, and who inherits orphans (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_LIBC = ctypes.CDLL(None, use_errno=True)
# An init system may send them to every process of a service, a terminal to every one of a group. The worker lets its
# jobs end, so its warden and keepers must go on.
MEANT_FOR_THE_WORKER = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def set_name(name: str) -> None:
    """Name this process, in at most 15 characters, for ps and pkill: who kills what is called python means others."""
    _LIBC.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int, *, parent: int) -> None:
    """Have this signal sent to this process when its parent ends, or at once where it has ended already."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def ignore_what_is_meant_for_the_worker() -> None:
    """Go on at the signals by which a terminal or an init system ends a worker. From here on no signal is blocked.

    A command inherits what is ignored or blocked, so these are handled, and nothing else is ignored.
    """
    for number in signal.valid_signals():
        if number in MEANT_FOR_THE_WORKER:
            signal.signal(number, lambda *_: None)
        elif signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Block signals in this thread, and in the processes that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as found:  # noqa: PTH123  # pathlib costs forks
            return [int(child) for child in found.read().split()]
    except OSError:
        return []


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def wakeup_on(handlers: Mapping[int, Callable[..., object]]) -> tuple[int, int]:
    """Handle these signals; return a descriptor that each makes readable, and the other end of its pipe."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return reader, writer


def readable(sources: Sequence[int | socket.socket], timeout: float | None) -> list[int | socket.socket]:
    """Wait until one of these can be read, at most ``timeout`` seconds; return those that can."""
    # Not select(): it refuses descriptors above 1,023, and the worker chooses the number of the warden's.
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(None if timeout is None else ceil(timeout * 1000))}
    return [source for source in sources if (source if isinstance(source, int) else source.fileno()) in ready]

"""The warden's loop: it forks keepers for the worker, and ends them when it hears no heartbeat, until that is gone."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence

from .command_start import CommandStart, JobStart
from .keeper_pool import KeeperPool
from .messages import close_all, receive, seconds_in, send_report
from .processes import adopt_orphans, ignore_what_is_meant_for_the_worker, readable, set_name, wakeup_on

# To a timer, 0 is never.
_AT_ONCE_SECONDS = 0.001


def main(
    channel: socket.socket,
    *,
    job_start: JobStart | None = None,
    name: str = "cm-warden",
    private: Sequence[int] = (),
    on_hangup: Callable[[], None] | None = None,
) -> None:
    """Serve the worker at the other end of the channel until it is gone.

    ``job_start``: how keepers start a job; by default as a command. ``private``: descriptors that no keeper may keep
    open. ``on_hangup``: called when this process gets SIGHUP.
    """
    ignore_what_is_meant_for_the_worker()
    if on_hangup is not None:
        warden = os.getpid()
        # Keepers inherit the handler.
        signal.signal(signal.SIGHUP, lambda *_: on_hangup() if os.getpid() == warden else None)
    set_name(name)
    adopt_orphans()
    # No command leaves a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Keepers and commands are forked from here: what the collector writes to, each of them would have to copy.
    gc.freeze()
    _Warden(channel, job_start or CommandStart(), private).serve()


class _Warden:
    def __init__(self, channel: socket.socket, job_start: JobStart, private: Sequence[int]) -> None:
        self._channel = channel
        # A timer, since a worker that freezes in the middle of a message leaves this process waiting for its rest.
        self._wakeup, writer = wakeup_on({signal.SIGCHLD: lambda *_: None, signal.SIGALRM: self._end_jobs})
        self._keepers = KeeperPool(private=(channel.fileno(), self._wakeup, writer, *private), job_start=job_start)
        self._overdue = False

    def serve(self) -> None:
        while True:
            ready = readable([self._channel, self._wakeup], None)
            if self._channel in ready:
                message, descriptors = receive(self._channel)
                if message is None:
                    return
                self._take(message, descriptors)
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._keepers.reap()

    def _take(self, message: bytes, descriptors: list[int]) -> None:
        if not descriptors:
            self._take_heartbeat(message)
        elif self._overdue:
            _refuse(descriptors)
        else:
            control, *others = descriptors
            close_all(others)
            self._keepers.fork(control)
            if self._overdue:
                # The timer fired meanwhile, and `_end_jobs` may have missed this keeper.
                self._keepers.end_all()

    def _take_heartbeat(self, message: bytes) -> None:
        try:
            seconds = seconds_in(message, "heartbeat")
        except ValueError:
            # The last one counts. Or there was no room here for the socket of a keeper: the worker sees its end.
            return
        # In this order: what the timer says, however soon, holds until the next heartbeat.
        self._overdue = False
        signal.setitimer(signal.ITIMER_REAL, max(seconds, _AT_ONCE_SECONDS))

    def _end_jobs(self, *_: object) -> None:
        self._overdue = True
        self._keepers.end_all()


def _refuse(descriptors: list[int]) -> None:
    """Answer a worker that wakes up in the middle of a launch: another worker may have the job by now."""
    control_descriptor, *others = descriptors
    with socket.socket(fileno=control_descriptor) as control:
        send_report(control, lost=True)
    close_all(others)

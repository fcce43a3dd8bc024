"""The warden's loop: each launch goes to a keeper, until the worker is gone."""

from __future__ import annotations

import os
import signal
import socket

from .keeper_pool import KeeperPool
from .messages import LAUNCH_DESCRIPTORS, close_all, receive, report, seconds_in
from .processes import adopt_orphans, readable, wakeup_on

# The next keeper is forked once nothing has happened for so long.
_QUIET_SECONDS = 0.01
# To a timer, 0 is never.
_AT_ONCE_SECONDS = 0.001


def main(channel: socket.socket) -> None:
    """Serve the worker at the other end of the channel until it is gone."""
    adopt_orphans()
    _Warden(channel).serve()


class _Warden:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._wakeup = wakeup_on(signal.SIGCHLD)
        self._keepers = KeeperPool(private=(channel.fileno(), self._wakeup))
        self._overdue = False
        # A signal, since a worker that freezes in the middle of a message leaves this process waiting for its rest.
        signal.signal(signal.SIGALRM, self._end_jobs)

    def serve(self) -> None:
        sources = [self._channel, self._wakeup]
        while True:
            ready = readable(sources, None if self._keepers.one_waits else _QUIET_SECONDS)
            if not ready:
                self._keepers.fork_ahead()
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
        elif len(descriptors) < LAUNCH_DESCRIPTORS:
            # There was no room for them here: with its control socket closed, the launch counts as lost.
            close_all(descriptors)
        elif self._overdue:
            _refuse(descriptors)
        else:
            self._keepers.launch(message, descriptors)
            if self._overdue:
                # The timer fired during the launch, which `_end_jobs` may have missed.
                self._keepers.end_jobs()

    def _take_heartbeat(self, message: bytes) -> None:
        try:
            seconds = seconds_in(message, "heartbeat")
        except ValueError:
            # The last one counts. Or it was a launch whose descriptors found no room here: it is lost.
            return
        # In this order: what the timer says, however soon, holds until the next heartbeat.
        self._overdue = False
        signal.setitimer(signal.ITIMER_REAL, max(seconds, _AT_ONCE_SECONDS))

    def _end_jobs(self, *_: object) -> None:
        self._overdue = True
        self._keepers.end_jobs()


def _refuse(descriptors: list[int]) -> None:
    """Answer a worker that wakes up in the middle of a launch: another worker may have the job by now."""
    control_descriptor, *streams = descriptors
    with socket.socket(fileno=control_descriptor) as control:
        report(control, lost=True)
    close_all(streams)

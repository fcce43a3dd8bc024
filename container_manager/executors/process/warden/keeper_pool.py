"""The keepers of running jobs, and one forked ahead for the next job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from .keeper import wait_for_job
from .messages import close_all, send
from .processes import children, kill


class KeeperPool:
    """Fork keepers and reap them. ``private``: the warden's descriptors, which no keeper may keep open."""

    def __init__(self, *, private: Sequence[int]) -> None:
        self._private = private
        self._busy: set[int] = set()
        # Its pid, and the socket by which it is told its job.
        self._next: tuple[int, socket.socket] | None = None

    @property
    def one_waits(self) -> bool:
        return self._next is not None

    def fork_ahead(self) -> None:
        """Fork the next job's keeper, unless one waits or there is no room for it."""
        if self._next is None:
            with contextlib.suppress(OSError):
                self._next = self._fork()

    def launch(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Give a job to a keeper. Where there is no room for a keeper, only this job is lost."""
        with contextlib.suppress(OSError):
            self._busy.add(self._told(message, descriptors))
        close_all(descriptors)

    def _told(self, message: bytes, descriptors: Sequence[int]) -> int:
        keeper, channel = self._next or self._fork(descriptors)
        self._next = None
        try:
            send(channel, message, descriptors)
        except OSError:
            # It was killed while it waited.
            channel.close()
            keeper, channel = self._fork(descriptors)
            send(channel, message, descriptors)
        channel.close()
        return keeper

    def end_jobs(self) -> None:
        for keeper in self._busy:
            kill(keeper, signal.SIGUSR1)

    def reap(self) -> None:
        """Reap keepers that have ended, and kill what a killed keeper has left behind."""
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._busy.discard(pid)
                if self._next and self._next[0] == pid:
                    self._next[1].close()
                    self._next = None
        keepers = self._busy | ({self._next[0]} if self._next else set())
        # The warden adopts orphans: any child that is no keeper was a killed keeper's.
        for pid in children(os.getpid()):
            if pid not in keepers:
                kill(pid, signal.SIGKILL)

    def _fork(self, passed: Sequence[int] = ()) -> tuple[int, socket.socket]:
        """Fork a keeper, which closes what is to be ``passed`` to it by its channel."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for descriptor in (*self._private, *passed, ours.detach()):
                    os.close(descriptor)
                wait_for_job(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        return pid, ours

"""The keepers of one warden."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from .command_start import JobStart
from .keeper import END, keep_jobs
from .messages import close_all
from .processes import children, send_signal


class KeeperPool:
    """Fork keepers and reap them. ``private``: the warden's descriptors, which no keeper may keep open.

    ``job_start``: how they start a job.
    """

    def __init__(self, *, private: Sequence[int], job_start: JobStart) -> None:
        self._private, self._job_start = private, job_start
        self._keepers: set[int] = set()

    def fork(self, control: int) -> None:
        """Fork a keeper and give it this socket. Where there is no room for it, the worker sees the socket's end."""
        warden = os.getpid()
        with contextlib.suppress(OSError):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    # Its old value is not asked: asyncio, where it is imported, has reset it in each fork.
                    signal.set_wakeup_fd(-1)
                    close_all(self._private)
                    keep_jobs(socket.socket(fileno=control), warden=warden, job_start=self._job_start)
                    status = 0
                finally:
                    os._exit(status)
            self._keepers.add(pid)
        os.close(control)

    def end_all(self) -> None:
        for keeper in self._keepers:
            send_signal(keeper, END)

    def reap(self) -> None:
        """Reap keepers that have ended, and kill what a killed keeper has left behind."""
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._keepers.discard(pid)
        # The warden adopts orphans: any child that is no keeper was a killed keeper's.
        for pid in children(os.getpid()):
            if pid not in self._keepers:
                send_signal(pid, signal.SIGKILL)

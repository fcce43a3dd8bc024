"""A keeper runs one job after another: it starts the command, waits for its end, kills what it left, and reports."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from typing import Any

from .command_start import JobStart
from .messages import LAUNCH_DESCRIPTORS, close_all, receive, seconds_in, send_report
from .processes import adopt_orphans, children, descendants, die_with_parent, readable, send_signal, set_name, wakeup_on

# The warden is gone, or the worker's heartbeat is overdue: end the job as lost, and start no other.
END = signal.SIGUSR1
# Not the job's fault: its worker sees that the keeper ends, and the attempt is lost.
_NO_ROOM = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
# No request that concerns a running job is longer.
_REQUEST_BYTES = 100


def keep_jobs(control: socket.socket, *, warden: int, job_start: JobStart) -> None:
    """Run the jobs that come by ``control``, one at a time, until the worker or the warden is gone."""
    keeper = _Keeper(control, job_start)
    set_name("cm-keeper")
    adopt_orphans()
    die_with_parent(END, parent=warden)
    while (launch := keeper.next_launch()) is not None:
        keeper.run(*launch)


class _Keeper:
    def __init__(self, control: socket.socket, job_start: JobStart) -> None:
        self._control, self._job_start = control, job_start
        self._ends = False
        self._wakeup, writer = wakeup_on({signal.SIGCHLD: lambda *_: None, END: self._end})
        self._private = (control.fileno(), self._wakeup, writer)

    def next_launch(self) -> tuple[bytes, list[int]] | None:
        """Wait for a launch; return it with the open files for stdout and stderr, or None if there will be no other."""
        if not self._ends:
            self._job_start.prepare(self._private)
        while not self._ends:
            ready = readable([self._wakeup, self._control], None)
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
            if self._control in ready:
                message, streams = receive(self._control)
                if message is None:
                    break
                # Looked at after the message, in the middle of which its worker may have frozen.
                if len(streams) == LAUNCH_DESCRIPTORS and not self._ends:
                    return message, streams
                close_all(streams)
                if self._ends:
                    send_report(self._control, lost=True)
                elif not _is_stop(message):
                    # A launch whose open files found no room here: the worker sees that this keeper ends.
                    break
        return None

    def run(self, message: bytes, streams: list[int]) -> None:
        """Run a job to its end, and report it."""
        try:
            job = _Job(self._job_start.start(message, streams, self._private))
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._ends = True
            else:
                send_report(self._control, error=error.errno or 0)
            return
        except ValueError:
            send_report(self._control, lost=True)
            return
        finally:
            close_all(streams)
        while not job.has_ended():
            self._wait(job)
        send_report(self._control, **job.report())

    def _wait(self, job: _Job) -> None:
        """Wait until a process of the job has ended, or the job must be stopped or killed."""
        ready = readable([self._wakeup, *([] if self._ends else [self._control])], job.seconds_left())
        if self._wakeup in ready:
            os.read(self._wakeup, 4096)
        if self._control in ready:
            self._take_request(job)
        if self._ends:
            job.lost = True
            job.kill()
        job.kill_when_due()

    def _take_request(self, job: _Job) -> None:
        """Take a request of the worker; one that is gone wants the command killed, and so does a malformed one."""
        try:
            message, descriptors = receive(self._control, most=_REQUEST_BYTES)
            close_all(descriptors)
            if message is not None:
                job.stop_within(seconds_in(message, "stop"))
                return
        except (OSError, ValueError):
            pass
        self._ends = True

    def _end(self, *_: object) -> None:
        self._ends = True


def _is_stop(message: bytes) -> bool:
    """Tell whether this is a request to stop a job, which ended at the same moment."""
    try:
        seconds_in(message, "stop")
    except ValueError:
        return False
    return True


class _Job:
    """A command and all its descendants, of which the keeper is or will be the parent."""

    def __init__(self, command: int) -> None:
        self._command = command
        self._status: int | None = None
        self._deadline: float | None = None
        self._peak_memory_bytes = 0
        self._cpu_seconds = 0.0
        self.lost = False

    def has_ended(self) -> bool:
        """Reap what has ended. Once the command is among that, end what it left; then return True."""
        try:
            while self._reap(os.WNOHANG):
                pass
        except ChildProcessError:
            return True
        if self._status is None:
            return False
        with contextlib.suppress(ChildProcessError):
            while True:
                for pid in children(os.getpid()):
                    send_signal(pid, signal.SIGKILL)
                self._reap(0)
        return True

    def report(self) -> dict[str, Any]:
        status = self._status or 0
        return {
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "lost": self.lost,
            "peak_memory_bytes": self._peak_memory_bytes,
            "cpu_seconds": self._cpu_seconds,
        }

    def seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def stop_within(self, seconds: float) -> None:
        """Send TERM to all; `kill_when_due` does the rest. Asked again, the earlier time holds."""
        deadline = time.monotonic() + seconds
        if self._deadline is None:
            self._signal(signal.SIGTERM)
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def kill_when_due(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline = None
            self.kill()

    def _signal(self, number: int) -> None:
        # Each once: many a program takes a second TERM as a word to end at once.
        for pid in {self._command, *descendants(os.getpid())}:
            send_signal(pid, number)

    def _reap(self, options: int) -> int:
        # What wait4 says of a process includes the descendants that it has waited for itself.
        pid, status, usage = os.wait4(-1, options)
        if pid:
            self._cpu_seconds += usage.ru_utime + usage.ru_stime
            self._peak_memory_bytes = max(self._peak_memory_bytes, usage.ru_maxrss * 1024)
        if pid == self._command:
            self._status = status
        return pid

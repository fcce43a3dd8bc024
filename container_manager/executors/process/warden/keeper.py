"""A job's keeper: it starts the command, waits for its end, kills what it left behind, and reports."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time

from .messages import receive, report, seconds_in
from .processes import adopt_orphans, children, descendants, die_with_parent, kill, readable, wakeup_on
from .waiting_command import WaitingCommand

# TERM: the warden is gone. USR1: the worker's heartbeat is overdue.
_HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)


def wait_for_job(channel: socket.socket) -> None:
    """Fork what will become the command, wait for a job, and keep it to its end."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    adopt_orphans()
    die_with_parent(signal.SIGTERM)
    wakeup = wakeup_on(*_HANDLED)
    command = WaitingCommand(channel, handled=_HANDLED)
    message, descriptors = receive(channel)
    channel.close()
    if message is not None:
        control_descriptor, out, err = descriptors
        _keep(command, message, wakeup, socket.socket(fileno=control_descriptor), (out, err))


def _keep(
    command: WaitingCommand, message: bytes, wakeup: int, control: socket.socket, streams: tuple[int, int]
) -> None:
    try:
        error = command.start(message, *streams)
    except OSError:
        # It was killed while it waited.
        command = WaitingCommand(control, handled=_HANDLED)
        error = command.start(message, *streams)
    except ValueError:
        report(control, lost=True)
        return
    for stream in streams:
        os.close(stream)
    if error is not None:
        os.waitpid(command.pid, 0)
        report(control, error=error)
        return
    report(control, pid=command.pid)
    stop = _Stop(command.pid)
    status = _wait(stop, wakeup, control)
    _end_descendants()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report(
        control,
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        lost=stop.lost,
        peak_memory_bytes=usage.ru_maxrss * 1024,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


class _Stop:
    """TERM to the whole tree, then KILL after the grace period."""

    def __init__(self, command: int) -> None:
        self.command = command
        self._deadline: float | None = None
        self.heard = True
        self.lost = False

    def seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def read(self, control: socket.socket) -> None:
        """Take the worker's requests; a worker that is gone wants the command killed."""
        try:
            data = control.recv(4096)
        except OSError:
            data = b""
        if not data:
            self.heard = False
            self.kill()
            return
        try:
            for line in data.splitlines():
                self._stop_within(seconds_in(line, "stop"))
        except ValueError:
            self.lost = True
            self.kill()

    def _stop_within(self, seconds: float) -> None:
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
        for pid in (self.command, *descendants(os.getpid())):
            kill(pid, number)


def _wait(stop: _Stop, wakeup: int, control: socket.socket) -> int:
    """Stop the command when that is asked for; return its status once it has ended."""
    while True:
        ready = readable([wakeup, *([control] if stop.heard else [])], stop.seconds_left())
        if control in ready:
            stop.read(control)
        if wakeup in ready:
            signals = os.read(wakeup, 4096)
            if signal.SIGTERM in signals or signal.SIGUSR1 in signals:
                stop.lost = True
                stop.kill()
        stop.kill_when_due()
        status = _reap(stop.command)
        if status is not None:
            return status


def _reap(command: int) -> int | None:
    """Reap whatever has ended; return the command's status once it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, ended = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == command:
                status = ended
    return status


def _end_descendants() -> None:
    # The keeper adopts orphans: once it has no child, nothing of the job is left.
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in children(os.getpid()):
                kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)

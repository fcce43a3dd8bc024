"""The process executor's warden: a small process that forks jobs and outlives nothing it should not.

Run as a script by `ProcessExecutor`, with the number of an inherited socket; it imports the standard library only, so
that it starts and forks fast. Each job has a keeper, which starts the command in a session of its own and is told by
its control socket when to stop it; the next one's is forked ahead, and so is what will become its command. Whoever
dies, the command dies too: the worker (the control socket ends), the warden (the keeper is signalled), the keeper (the
command is signalled, and what it left falls to the warden).
A worker that is frozen is not heard by the warden any more, which then ends all its jobs, and starts no other until it
is heard again.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("!I")
# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_EXEC_FAILED = 127
# What is passed with a launch: a control socket, and where stdout and stderr go.
_PASSED = 3
# The next keeper is forked once nothing has happened for so long.
_QUIET_SECONDS = 0.01
# To a timer, 0 is never.
_AT_ONCE_SECONDS = 0.001


def main(channel: socket.socket) -> None:
    """Give each launch message to a keeper until the worker is gone."""
    _adopt_orphans()
    wakeup = _wakeup_on(signal.SIGCHLD)
    keepers = _Keepers((channel.fileno(), wakeup))
    overdue = False

    def end_jobs(*_: object) -> None:
        nonlocal overdue
        overdue = True
        keepers.end_jobs()

    # By a signal: a worker that froze in the middle of a message leaves this process waiting for its rest.
    signal.signal(signal.SIGALRM, end_jobs)
    while True:
        ready = _ready([channel, wakeup], None if keepers.one_waits else _QUIET_SECONDS)
        if not ready:
            keepers.fork_ahead()
        if channel in ready:
            message, descriptors = receive(channel)
            if message is None:
                return
            heartbeat = None if descriptors else json.loads(message).get("heartbeat")
            if heartbeat is not None:
                # In this order: what the timer says, however soon, holds until the next heartbeat.
                overdue = False
                signal.setitimer(signal.ITIMER_REAL, max(heartbeat, _AT_ONCE_SECONDS))
            elif len(descriptors) < _PASSED:
                # There was no room for them here: with its control socket closed, the launch counts as lost.
                _close(descriptors)
            elif overdue:
                _refuse(descriptors)
            else:
                keepers.launch(message, descriptors)
                if overdue:
                    # By now: it may not have been among those that were ended.
                    keepers.end_jobs()
        if wakeup in ready:
            os.read(wakeup, 4096)
            keepers.reap()


def send(channel: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send a message, and open files with it: JSON, which only who it is for need read."""
    data = _HEADER.pack(len(message)) + message
    if descriptors:
        sent = socket.send_fds(channel, [data], list(descriptors))
        data = data[sent:]
    if data:
        channel.sendall(data)


def receive(channel: socket.socket) -> tuple[bytes | None, list[int]]:
    """Return a message and its open files; None once the other end is closed."""
    # recv_fds leaves descriptors open across exec unless told otherwise.
    header, descriptors, _, _ = socket.recv_fds(channel, _HEADER.size, _PASSED, socket.MSG_CMSG_CLOEXEC)
    while header and len(header) < _HEADER.size:
        header += channel.recv(_HEADER.size - len(header))
    if not header:
        return None, []
    missing, parts = _HEADER.unpack(header)[0], []
    while missing:
        part = channel.recv(min(missing, 65536))
        if not part:
            return None, []
        parts.append(part)
        missing -= len(part)
    return b"".join(parts), descriptors


def _ready(sources: Sequence[Any], timeout: float | None) -> list[Any]:
    return select.select(sources, [], [], timeout)[0]


class _Keepers:
    """The keepers of jobs, and one that waits for the next: to fork it takes longer than to start a command.

    ``inherited``: descriptors that are the warden's alone.
    """

    def __init__(self, inherited: Sequence[int]) -> None:
        self._inherited = inherited
        self._busy: set[int] = set()
        self._next: tuple[int, socket.socket] | None = None

    @property
    def one_waits(self) -> bool:
        return self._next is not None

    def fork_ahead(self) -> None:
        """Fork the next job's keeper, if there is none, and room for one."""
        if self._next is None:
            with contextlib.suppress(OSError):
                self._next = self._forked()

    def launch(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Give a job to a keeper. Where there is no room for one, the job is lost, and no other with it."""
        with contextlib.suppress(OSError):
            self._busy.add(self._told(message, descriptors))
        _close(descriptors)

    def _told(self, message: bytes, descriptors: Sequence[int]) -> int:
        keeper, channel = self._next or self._forked()
        self._next = None
        try:
            send(channel, message, descriptors)
        except OSError:
            # It was killed while it waited.
            channel.close()
            keeper, channel = self._forked()
            send(channel, message, descriptors)
        channel.close()
        return keeper

    def end_jobs(self) -> None:
        for keeper in self._busy:
            _kill(keeper, signal.SIGUSR1)

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._busy.discard(pid)
                if self._next and self._next[0] == pid:
                    self._next[1].close()
                    self._next = None
        # What a killed keeper left behind is now a child of the warden.
        keepers = self._busy | ({self._next[0]} if self._next else set())
        for pid in _children(os.getpid()):
            if pid not in keepers:
                _kill(pid, signal.SIGKILL)

    def _forked(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for descriptor in (*self._inherited, ours.detach()):
                    os.close(descriptor)
                _wait_for_job(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        return pid, ours


def _refuse(descriptors: list[int]) -> None:
    """Answer a worker that wakes up in the middle of a launch: by now the job may be another's."""
    control_descriptor, *streams = descriptors
    with socket.socket(fileno=control_descriptor) as control:
        _report(control, lost=True)
    _close(streams)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _wait_for_job(channel: socket.socket) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _adopt_orphans()
    _die_with_parent(signal.SIGTERM)
    wakeup = _wakeup_on(*_HEARD)
    ahead = None
    with contextlib.suppress(OSError):
        # Where there is no room for it, that is the job's misfortune, once it is there.
        ahead = _forked_command(channel)
    message, descriptors = receive(channel)
    channel.close()
    if message is not None:
        _keep(message, wakeup, ahead, *descriptors)


def _keep(  # noqa: PLR0917  # three descriptors, as they were sent
    message: bytes, wakeup: int, ahead: _Forked | None, control_descriptor: int, out: int, err: int
) -> None:
    """Start the command, see it to its end, leave nothing of it behind, and report."""
    control = socket.socket(fileno=control_descriptor)
    command, error = _start(ahead or _forked_command(control), control, message, out, err)
    os.close(out)
    os.close(err)
    if error is not None:
        os.waitpid(command, 0)
        _report(control, error=error)
        return
    _report(control, pid=command)
    stopped = _Stop(command)
    status = None
    while status is None:
        ready = _ready([wakeup, *stopped.listening(control)], stopped.seconds_left())
        if control in ready:
            stopped.read(control)
        if wakeup in ready:
            signals = os.read(wakeup, 4096)
            if signal.SIGTERM in signals or signal.SIGUSR1 in signals:
                stopped.lost = True
                stopped.kill()
        stopped.kill_when_due()
        status = _reap_command(command)
    _end_descendants()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    _report(
        control,
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        lost=stopped.lost,
        peak_memory_bytes=usage.ru_maxrss * 1024,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


class _Stop:
    """TERM to the whole tree, then KILL after the grace period."""

    def __init__(self, command: int) -> None:
        self.command = command
        self.deadline: float | None = None
        self.heard = True
        self.lost = False

    def listening(self, control: socket.socket) -> list[socket.socket]:
        return [control] if self.heard else []

    def seconds_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def read(self, control: socket.socket) -> None:
        try:
            data = control.recv(4096)
        except OSError:
            data = b""
        if not data:
            self.heard = False
            self.kill()
            return
        for line in data.splitlines():
            deadline = time.monotonic() + json.loads(line)["stop"]
            if self.deadline is None:
                for pid in (self.command, *_descendants(os.getpid())):
                    _kill(pid, signal.SIGTERM)
            self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def kill(self) -> None:
        for pid in (self.command, *_descendants(os.getpid())):
            _kill(pid, signal.SIGKILL)

    def kill_when_due(self) -> None:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.deadline = None
            self.kill()


# A process that waits to become the command, and the way to tell it which.
_Forked = tuple[int, socket.socket]


def _forked_command(inherited: socket.socket) -> _Forked:
    """Fork what will become the command. ``inherited`` is the keeper's alone."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            inherited.close()
            ours.close()
            _become_command(theirs)
        finally:
            os._exit(_EXEC_FAILED)
    theirs.close()
    return pid, ours


def _start(forked: _Forked, inherited: socket.socket, message: bytes, out: int, err: int) -> tuple[int, int | None]:
    """Tell a forked process which command it is; return the command's pid and the errno of a failed exec."""
    command, way = forked
    try:
        send(way, message, (out, err))
    except OSError:
        # It was killed while it waited.
        way.close()
        command, way = _forked_command(inherited)
        send(way, message, (out, err))
    with way:
        # Its end is closed by exec.
        report = way.recv(16)
    return command, int(report) if report else None


def _become_command(way: socket.socket) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for each in (*_IGNORED, *_HEARD):
        signal.signal(each, signal.SIG_DFL)
    _die_with_parent(signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    message, descriptors = receive(way)
    if message is None:
        return
    spec = json.loads(message)
    try:
        out, err = descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        for name, limit in spec["limits"].items():
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(number, (value, value))
        if spec["working_directory"]:
            os.chdir(spec["working_directory"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])  # noqa: S606  # argv, never a shell
    except OSError as error:
        way.sendall(str(error.errno or 0).encode())
    except ValueError:
        way.sendall(b"22")


def _reap_command(command: int) -> int | None:
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
    # Orphans fall to the keeper, so when it has no child left, nothing of the job is left.
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in _children(os.getpid()):
                _kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _report(control: socket.socket, **values: Any) -> None:
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(values).encode() + b"\n")


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _wakeup_on(*numbers: int) -> int:
    """Return a descriptor that becomes readable when one of these signals arrives."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reader


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, value, 0, 0, 0)


def _adopt_orphans() -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _die_with_parent(number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, number)


_LIBC = ctypes.CDLL(None, use_errno=True)
# What a keeper hears of.
_HEARD = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)
# What Python ignores, and what a shell ignores for what it starts in the background. All else is reset by exec.
_IGNORED = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]

if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))

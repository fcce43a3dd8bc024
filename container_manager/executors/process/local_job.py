"""One job as its worker sees it: what its keeper reports, and the pipes that its output comes by."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..base import ExitStatus, LaunchSpec, Observation, Phase, Stream
from ..output_buffer import OutputBuffer

T = TypeVar("T", int, float)
# A keeper's longest report has about 150 bytes.
_REPORT_BYTES = 4096
_MOST_ERRNO, _MOST_BYTES, _MOST_SECONDS = 4095, 2**63 - 1, 1e9
_HEARTBEAT_MISSED = "The process was ended because its worker was not heard of."
_MALFORMED_REPORT = "What was reported of the process was not understood."
_KEEPER_GONE = "What kept the process was killed, or there was no room to start it."


@dataclass(slots=True, kw_only=True)
class LocalJob:
    """A job that was launched. ``control`` is its keeper's other end; ``open_streams``: the pipes' descriptors.

    Once it has an ``exit``, ``unread`` is how much of its own output each pipe still has; what comes after that is
    another process's. It is ``paused`` while it prints faster than its output is fetched, and waits at its pipe.
    """

    spec: LaunchSpec
    control: socket.socket
    open_streams: dict[int, Stream]
    exit: ExitStatus | None = None
    exited_at: float = 0.0
    unread: dict[int, int] = field(default_factory=dict)
    paused: bool = False
    output: OutputBuffer = field(default_factory=OutputBuffer)
    partial_report: bytes = b""
    # Something else than reports came by the control socket: nothing that follows counts.
    is_malformed: bool = False

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def has_ended(self) -> bool:
        """Whether it has exited and all its output was read."""
        return self.exit is not None and not self.open_streams

    def observation(self) -> Observation:
        if self.has_ended:
            return Observation(key=self.key, handle=self.key, phase=Phase.EXITED, exit=self.exit)
        return Observation(key=self.key, handle=self.key, phase=Phase.RUNNING)

    def stop(self, grace_seconds: float) -> None:
        """Ask the keeper to end the command."""
        with contextlib.suppress(OSError):
            self.control.sendall(json.dumps({"stop": grace_seconds}).encode() + b"\n")

    def kill(self) -> None:
        """Have the keeper kill the command: it takes the end of its control socket for an order to."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def take_reports(self, data: bytes) -> None:
        """Take what came by the control socket; nothing: the keeper is gone."""
        *lines, self.partial_report = (self.partial_report + data).split(b"\n")
        try:
            if len(self.partial_report) > _REPORT_BYTES:
                raise ValueError("A report is too long.")
            for line in lines:
                if self.exit is None and not self.is_malformed:
                    self._end(_exit_status(self.spec, line))
        except (ValueError, RecursionError):
            self.is_malformed = True
            self.partial_report = b""
            with contextlib.suppress(OSError):
                # The keeper kills the command; once that is done, its own end is seen here.
                self.control.shutdown(socket.SHUT_WR)
        if not data and self.exit is None:
            self._end(ExitStatus(lost=True, message=_MALFORMED_REPORT if self.is_malformed else _KEEPER_GONE))

    def close(self) -> None:
        self.control.close()
        for descriptor in self.open_streams:
            os.close(descriptor)
        self.open_streams.clear()

    def _end(self, status: ExitStatus | None) -> None:
        if status is not None:
            self.exit, self.exited_at = status, time.monotonic()
            self.unread = {descriptor: _bytes_in(descriptor) for descriptor in self.open_streams}


def _exit_status(spec: LaunchSpec, line: bytes) -> ExitStatus | None:
    """Return how a command ended by its keeper's report; None: it has started. Raises ValueError for anything else."""
    report = json.loads(line)
    if not isinstance(report, dict):
        raise ValueError("A report is an object.")
    if "pid" in report:
        return None
    if (error := _number(report, "error", int, _MOST_ERRNO)) is not None:
        return ExitStatus(unstarted=True, message=_start_error(spec, error))
    code, number = _number(report, "code", int, 255), _number(report, "signal", int, signal.NSIG - 1)
    lost = report.get("lost")
    if not isinstance(lost, bool) or (not lost and (code is None) is (number is None)):
        raise ValueError("An end has an exit code or a signal, or is lost.")
    return ExitStatus(
        code=code,
        signal=number,
        lost=lost,
        message=_HEARTBEAT_MISSED if lost else "",
        peak_memory_bytes=_number(report, "peak_memory_bytes", int, _MOST_BYTES),
        cpu_seconds=_number(report, "cpu_seconds", float, _MOST_SECONDS),
    )


def _number(report: Mapping[str, Any], name: str, kind: type[T], most: T) -> T | None:
    value = report.get(name)
    if value is None:
        return None
    # Not a bool, which is an int too.
    if type(value) is not kind or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r}.")
    return value


def _bytes_in(pipe: int) -> int:
    (found,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(found)


def _start_error(spec: LaunchSpec, number: int) -> str:
    if number == 2 and spec.job.working_directory and not Path(spec.job.working_directory).is_dir():
        return f"The working directory {spec.job.working_directory!r} does not exist."
    return f"{spec.argv[0]!r} could not be started: {os.strerror(number)}."

"""Local jobs and their keepers as the worker sees them: what a keeper reports, and the pipes that output comes by."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..base import ExitStatus, LaunchSpec, Observation, Phase, Stream
from ..output_buffer import OutputBuffer
from .result_files import ResultFile
from .warden.messages import send

T = TypeVar("T", int, float)
# A keeper's longest report has about 150 bytes.
_REPORT_BYTES = 4096
_MOST_ERRNO, _MOST_BYTES, _MOST_SECONDS = 4095, 2**63 - 1, 1e9
_HEARTBEAT_MISSED = (
    "The process was ended because its worker was not heard of for longer than LEASE_SECONDS and OUTAGE_SECONDS: it "
    "hung, or the host had no time for it."
)
_MALFORMED_REPORT = "What was reported of the process was not understood: perhaps a job has interfered."
_KEEPER_GONE = (
    "What kept the process was killed, or there was no room to start it: the host may lack memory, processes or files."
)


@dataclass(slots=True, kw_only=True, eq=False)
class LocalJob:
    """A job that was launched. ``open_streams``: the descriptors of the pipes that its output comes by.

    Once it has an ``exit``, ``unread`` is how much of its own output each pipe still has; what comes after that is
    another process's. It is ``paused`` while it prints faster than its output is fetched, and waits at its pipe.
    """

    spec: LaunchSpec
    open_streams: dict[int, Stream]
    result: ResultFile
    # While it runs.
    keeper: KeeperLink | None = None
    exit: ExitStatus | None = None
    exited_at: float = 0.0
    unread: dict[int, int] = field(default_factory=dict)
    paused: bool = False
    output: OutputBuffer = field(default_factory=OutputBuffer)

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

    def end(self, status: ExitStatus) -> None:
        """Note that it has exited."""
        result, refused = self.result.take()
        status = status._replace(result=result, result_refused=refused, progress=self.result.take_progress())
        self.keeper, self.exit, self.exited_at = None, status, time.monotonic()
        self.unread = {descriptor: _bytes_in(descriptor) for descriptor in self.open_streams}


class KeeperLink:
    """The worker's end of a keeper's control socket. A keeper runs one ``job`` after another."""

    def __init__(self, control: socket.socket, *, warden: object = None) -> None:
        self.control, self.warden = control, warden
        self.job: LocalJob | None = None
        # It is to end with its present job.
        self.is_retired = False
        self._partial_report = b""
        # It was told to end, or something else than reports came from it: nothing that follows counts.
        self._is_ending = False
        self._is_malformed = False

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a job."""
        return self.job is None and not self._is_ending

    def launch(self, job: LocalJob, message: bytes, streams: Sequence[int]) -> None:
        """Give it a job. Raises OSError where it cannot be sent: then the job is not started."""
        send(self.control, message, streams)
        self.job, job.keeper = job, self

    def stop(self, grace_seconds: float) -> None:
        """Have the command stopped."""
        with contextlib.suppress(OSError):
            send(self.control, json.dumps({"stop": grace_seconds}).encode())

    def end(self) -> None:
        """Have the command killed, and the keeper end: it takes the end of its control socket for an order to.

        Once both are gone, the end of the socket is seen here.
        """
        self._is_ending = True
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def take_reports(self, data: bytes) -> None:
        """Take what came by the control socket; nothing: the keeper is gone."""
        *lines, self._partial_report = (self._partial_report + data).split(b"\n")
        try:
            if len(self._partial_report) > _REPORT_BYTES:
                raise ValueError("A report is too long.")
            for line in lines:
                if not self._is_malformed:
                    self._take_report(line)
        except (ValueError, RecursionError):
            self._is_malformed = True
            self._partial_report = b""
            self.end()
        if not data:
            self._is_ending = True
            self._end_job(ExitStatus(lost=True, message=_MALFORMED_REPORT if self._is_malformed else _KEEPER_GONE))

    def _take_report(self, line: bytes) -> None:
        if self.job is None:
            raise ValueError("A report is of a job.")
        status = _exit_status(self.job.spec, line)
        self._end_job(status)
        if status.lost:
            # It ends, most likely: another job might be lost with it.
            self.end()

    def _end_job(self, status: ExitStatus) -> None:
        job, self.job = self.job, None
        if job is not None:
            job.end(status)


def _exit_status(spec: LaunchSpec, line: bytes) -> ExitStatus:
    """Return how a command ended by its keeper's report. Raises ValueError for anything else."""
    report = json.loads(line)
    if not isinstance(report, dict):
        raise ValueError("A report is an object.")
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
    if number == errno.ENOENT and spec.job.working_directory and not Path(spec.job.working_directory).is_dir():
        return f"The working directory {spec.job.working_directory!r} does not exist on the worker's host."
    hint = " Is it in the job's PATH?" if number == errno.ENOENT and "/" not in spec.argv[0] else ""
    return f"{spec.argv[0]!r} could not be started: {os.strerror(number)}.{hint}"

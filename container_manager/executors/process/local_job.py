"""One job as its worker sees it: what its keeper reports, and the pipes that its output comes by."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import ExitStatus, LaunchSpec, Observation, Phase, Stream
from ..output_buffer import OutputBuffer

_HEARTBEAT_MISSED = "The process was ended because its worker was not heard of."
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
        for line in lines:
            self._take_report(json.loads(line))
        if not data and self.exit is None:
            self._end(ExitStatus(lost=True, message=_KEEPER_GONE))

    def close(self) -> None:
        self.control.close()
        for descriptor in self.open_streams:
            os.close(descriptor)
        self.open_streams.clear()

    def _take_report(self, report: Mapping[str, Any]) -> None:
        if "error" in report:
            self._end(ExitStatus(unstarted=True, message=_start_error(self.spec, report["error"])))
        elif "pid" not in report:
            self._end(
                ExitStatus(
                    code=report.get("code"),
                    signal=report.get("signal"),
                    lost=report["lost"],
                    message=_HEARTBEAT_MISSED if report["lost"] else "",
                    peak_memory_bytes=report.get("peak_memory_bytes"),
                    cpu_seconds=report.get("cpu_seconds"),
                )
            )

    def _end(self, status: ExitStatus) -> None:
        self.exit, self.exited_at = status, time.monotonic()
        self.unread = {descriptor: _bytes_in(descriptor) for descriptor in self.open_streams}


def _bytes_in(pipe: int) -> int:
    (found,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(found)


def _start_error(spec: LaunchSpec, number: int) -> str:
    if number == 2 and spec.job.working_directory and not Path(spec.job.working_directory).is_dir():
        return f"The working directory {spec.job.working_directory!r} does not exist."
    return f"{spec.argv[0]!r} could not be started: {os.strerror(number)}."

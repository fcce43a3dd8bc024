"""Run attempts as local processes: the embedded default. No isolation: a job can do what the worker's user can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..base import (
    Capabilities,
    Executor,
    ExitStatus,
    Health,
    LaunchSpec,
    LogChunk,
    LogPage,
    Observation,
    Observations,
    Phase,
    Rejected,
    Stream,
    Unavailable,
)
from ..output_buffer import OutputBuffer
from . import warden

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_READ_BYTES = 65536
# After the command's whole tree has been ended its pipes end at once; a descriptor passed elsewhere must not hold us.
_DRAIN_SECONDS = 2.0
_UNHEARD = "The process was ended because its worker was not heard of."
_UNKEPT = "What kept the process was killed, or there was no room to start it."


@dataclass(slots=True, kw_only=True)
class _Job:
    spec: LaunchSpec
    control: socket.socket
    exit: ExitStatus | None = None
    exited_at: float = 0.0
    open_streams: dict[int, Stream] = field(default_factory=dict)
    # How much the command has left in its pipes: what comes after that is not its own.
    left: dict[int, int] = field(default_factory=dict)
    # A job that prints faster than its output is fetched waits at its pipe.
    paused: bool = False
    output: OutputBuffer = field(default_factory=OutputBuffer)
    lines: bytes = b""

    @property
    def key(self) -> str:
        return self.spec.key


class ProcessExecutor(Executor):
    """Starts each attempt as a process in a session of its own, with the environment it was given and no more.

    ``inherit_environment`` names variables to pass on from the worker; ``cpu_seconds`` and ``open_files`` are limits
    for each process of a job. A job's ``memory_bytes`` limits its address space.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=False, isolates=False, launch_threads=0)

    def __init__(
        self,
        *,
        inherit_environment: Sequence[str] = (),
        cpu_seconds: int | None = None,
        open_files: int | None = None,
    ) -> None:
        self._inherited = {name: os.environ[name] for name in inherit_environment if name in os.environ}
        self._limits = {"RLIMIT_CORE": 0}
        if cpu_seconds is not None:
            self._limits["RLIMIT_CPU"] = cpu_seconds
        if open_files is not None:
            self._limits["RLIMIT_NOFILE"] = open_files
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._removed: list[_Job] = []
        self._listening: dict[int, tuple[_Job, Stream | None]] = {}
        self._changed = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._warden: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._pump: threading.Thread | None = None
        self._closing = False
        self._closed = False
        self._alive_until: float | None = None

    def submit(self, spec: LaunchSpec) -> str:
        if not spec.argv:
            raise Rejected("start", "There is no command to run.")
        # To wait here until it runs, in another thread, would take longer than the start: an error is an end.
        with self._lock:
            if spec.key not in self._jobs:
                self._launch(spec)
        return spec.key

    def observe(self) -> Observations:
        with self._lock:
            attempts = [
                Observation(
                    key=job.key,
                    handle=job.key,
                    phase=Phase.EXITED if self._has_ended(job) else Phase.RUNNING,
                    exit=job.exit if self._has_ended(job) else None,
                )
                for job in self._jobs.values()
            ]
            return Observations(attempts=attempts, as_of=time.monotonic())

    def watch(self, timeout: float) -> bool:
        changed = self._changed.wait(timeout)
        self._changed.clear()
        return changed

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        with self._lock:
            job = self._jobs.get(handle)
            if job is None:
                return LogPage(chunks=(), cursor=cursor, complete=True)
            chunks, after = job.output.take(cursor, limit)
            if job.paused and not job.output.is_full:
                self._wake()
            return LogPage(chunks=chunks, cursor=after, complete=not chunks and self._has_ended(job))

    def stop(self, handle: str, grace_seconds: float) -> None:
        with self._lock:
            job = self._jobs.get(handle)
        if job is not None and job.exit is None:
            with contextlib.suppress(OSError):
                job.control.sendall(json.dumps({"stop": grace_seconds}).encode() + b"\n")

    def remove(self, handle: str, *, failed: bool = False) -> None:
        with self._lock:
            job = self._jobs.pop(handle, None)
            if job is not None:
                # The keeper takes the end of its control socket for an order to kill. The pump owns the descriptors.
                self._removed.append(job)
                with contextlib.suppress(OSError):
                    job.control.shutdown(socket.SHUT_RDWR)
                self._wake()

    def check(self) -> Health:
        try:
            with self._lock:
                self._started_warden()
        except Unavailable as error:
            return Health(ok=False, message=str(error))
        return Health(ok=True, message="Local processes, without isolation.")

    def heartbeat(self, seconds: float) -> None:
        with self._lock:
            self._alive_until = time.monotonic() + seconds
            if self._channel is not None:
                self._pass_heartbeat(self._channel)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._changed.set()
            self._wake()
        if self._pump is not None:
            self._pump.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._selector.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        if self._channel is not None:
            self._channel.close()
        if self._warden is not None:
            self._warden.wait()

    def _launch(self, spec: LaunchSpec) -> None:
        channel = self._started_warden()
        message = json.dumps(self._message(spec)).encode()
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as passed:
            try:
                ours, theirs = socket.socketpair()
                kept.enter_context(ours)
                passed.enter_context(theirs)
                out_reader, out_writer = _pipe(kept, passed)
                err_reader, err_writer = _pipe(kept, passed)
            except OSError as error:
                raise Unavailable(f"There is no room for another job: {error}.") from error
            try:
                warden.send(channel, message, (theirs.fileno(), out_writer, err_writer))
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    # Of all that this user's processes have on its way; nothing of it was sent.
                    raise Unavailable(f"There is no room to launch another job: {error}.") from error
                self._channel = None
                raise Unavailable(f"The warden process is gone: {error}.") from error
            kept.pop_all()
        job = _Job(spec=spec, control=ours, open_streams={out_reader: "stdout", err_reader: "stderr"})
        for descriptor in job.open_streams:
            os.set_blocking(descriptor, False)
        ours.setblocking(False)
        self._jobs[spec.key] = job
        self._wake()

    def _message(self, spec: LaunchSpec) -> dict[str, Any]:
        environment = {"PATH": _DEFAULT_PATH, "LANG": "C.UTF-8", **self._inherited, **spec.environment}
        limits = dict(self._limits)
        if spec.job.memory_bytes is not None:
            limits["RLIMIT_AS"] = spec.job.memory_bytes
        return {
            "argv": spec.argv,
            "environment": environment,
            "working_directory": spec.job.working_directory,
            "limits": limits,
        }

    def _started_warden(self) -> socket.socket:
        """Return the channel to a living warden, and start one (and the pump) where there is none."""
        if self._closing:
            raise Unavailable("This executor is closed.")
        if self._channel is None or self._warden is None or self._warden.poll() is not None:
            ours, theirs = socket.socketpair()
            try:
                self._warden = subprocess.Popen(  # noqa: S603  # our own interpreter and file
                    [sys.executable, "-I", "-S", str(Path(warden.__file__)), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise Unavailable(f"The warden process could not be started: {error}.") from error
            finally:
                theirs.close()
            if self._channel is not None:
                self._channel.close()
            self._channel = ours
            # One that is started between two heartbeats must know by when to expect the next.
            self._pass_heartbeat(ours)
        if self._pump is None:
            self._selector.register(self._wake_reader, selectors.EVENT_READ)
            self._pump = threading.Thread(target=self._read_all, name="container-manager-output", daemon=True)
            self._pump.start()
        return self._channel

    def _pass_heartbeat(self, channel: socket.socket) -> None:
        if self._alive_until is not None:
            with contextlib.suppress(OSError):
                warden.send(channel, json.dumps({"heartbeat": self._alive_until - time.monotonic()}).encode(), ())

    def _wake(self) -> None:
        """Let the pump look at the jobs anew. The caller holds the lock."""
        if self._pump is not None and not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_writer, b"x")

    def _has_ended(self, job: _Job) -> bool:
        return job.exit is not None and not job.open_streams

    def _read_all(self) -> None:
        """Read every job's pipes and control socket, until the executor is closed (the pump's thread)."""
        while True:
            with self._lock:
                closing = self._closing
                self._listen()
            if closing:
                break
            for key, _ in self._selector.select(timeout=1.0):
                if key.fd == self._wake_reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_reader, _READ_BYTES)
                elif key.fd in self._listening:
                    self._read(key.fd, *self._listening[key.fd])
            self._leave_others()
        for job in (*self._jobs.values(), *(job for job, _ in self._listening.values())):
            self._let_go(job)

    def _listen(self) -> None:
        """Make the selector follow the jobs there are now, all but those whose buffer is full."""
        wanted: dict[int, tuple[_Job, Stream | None]] = {}
        for job in self._jobs.values():
            job.paused = job.output.is_full
            if job.exit is None:
                wanted[job.control.fileno()] = (job, None)
            if not job.paused:
                wanted.update({descriptor: (job, stream) for descriptor, stream in job.open_streams.items()})
        for descriptor in [d for d in self._listening if d not in wanted]:
            self._selector.unregister(descriptor)
            del self._listening[descriptor]
        for job in self._removed:
            self._let_go(job)
        self._removed.clear()
        for descriptor, owner in wanted.items():
            if descriptor not in self._listening:
                self._selector.register(descriptor, selectors.EVENT_READ)
                self._listening[descriptor] = owner

    def _let_go(self, job: _Job) -> None:
        job.control.close()
        for descriptor in job.open_streams:
            os.close(descriptor)
        job.open_streams.clear()

    def _read(self, descriptor: int, job: _Job, stream: Stream | None) -> None:
        if stream is None:
            self._read_control(job)
            return
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        with self._lock:
            if data:
                job.output.add([LogChunk(stream=stream, data=data)])
                if job.exit is not None:
                    job.left[descriptor] -= len(data)
                if job.output.is_full:
                    self._changed.set()
            else:
                self._close_stream(descriptor, job)

    def _leave_others(self) -> None:
        """Close the pipes that somebody else still holds open, once all that the command has left there is read."""
        with self._lock:
            latest = time.monotonic() - _DRAIN_SECONDS
            for descriptor, (job, stream) in list(self._listening.items()):
                if stream and job.exit is not None and job.exited_at < latest and job.left[descriptor] <= 0:
                    self._close_stream(descriptor, job)

    def _close_stream(self, descriptor: int, job: _Job) -> None:
        self._selector.unregister(descriptor)
        del self._listening[descriptor]
        del job.open_streams[descriptor]
        os.close(descriptor)
        if self._has_ended(job):
            self._changed.set()

    def _read_control(self, job: _Job) -> None:
        try:
            data = job.control.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        with self._lock:
            *lines, job.lines = (job.lines + data).split(b"\n")
            for line in lines:
                self._take_report(job, json.loads(line))
            if not data and job.exit is None:
                self._take_report(job, {"lost": True, "message": _UNKEPT})

    def _take_report(self, job: _Job, report: Mapping[str, Any]) -> None:
        if "error" in report:
            job.exit = ExitStatus(unstarted=True, message=_start_error(job.spec, report["error"]))
        elif "pid" not in report:
            lost = report["lost"]
            job.exit = ExitStatus(
                code=report.get("code"),
                signal=report.get("signal"),
                lost=lost,
                message=report.get("message", _UNHEARD) if lost else "",
                peak_memory_bytes=report.get("peak_memory_bytes"),
                cpu_seconds=report.get("cpu_seconds"),
            )
        job.exited_at = time.monotonic()
        if job.exit is not None:
            job.left = {descriptor: _bytes_in(descriptor) for descriptor in job.open_streams}
            self._changed.set()


def _pipe(reads: contextlib.ExitStack, writes: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe whose two ends are closed with what is given for each."""
    reader, writer = os.pipe()
    reads.callback(os.close, reader)
    writes.callback(os.close, writer)
    return reader, writer


def _bytes_in(pipe: int) -> int:
    (found,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(found)


def _start_error(spec: LaunchSpec, number: int) -> str:
    if number == 2 and spec.job.working_directory and not Path(spec.job.working_directory).is_dir():
        return f"The working directory {spec.job.working_directory!r} does not exist."
    return f"{spec.argv[0]!r} could not be started: {os.strerror(number)}."

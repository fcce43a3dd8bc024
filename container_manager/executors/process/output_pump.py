"""One thread that reads the output and the reports of all local jobs."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable

from ..base import LogChunk, Stream
from .local_job import LocalJob

_READ_BYTES = 65536
# After the command's whole tree has been ended its pipes end at once; a descriptor passed elsewhere must not hold us.
_DRAIN_SECONDS = 2.0


class OutputPump:
    """Reads for all jobs; ``changed`` is called when one has ended, or its buffer is full.

    ``lock`` guards the jobs: callers of `start`, `add`, `remove` and `wake`, and readers of ``jobs``, hold it. Only the
    pump's thread closes a job's descriptors, since it may be waiting for them.
    """

    def __init__(self, lock: threading.Lock, *, changed: Callable[[], None]) -> None:
        self.jobs: dict[str, LocalJob] = {}
        self._lock, self._changed = lock, changed
        self._removed: list[LocalJob] = []
        # Each descriptor's job, and which stream it is; None: the control socket.
        self._listening: dict[int, tuple[LocalJob, Stream | None]] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._thread: threading.Thread | None = None
        self._closing = self._closed = False

    def start(self) -> None:
        if self._thread is None:
            self._selector.register(self._wake_reader, selectors.EVENT_READ)
            self._thread = threading.Thread(target=self._run, name="container-manager-output", daemon=True)
            self._thread.start()

    def add(self, job: LocalJob) -> None:
        job.control.setblocking(False)
        for descriptor in job.open_streams:
            os.set_blocking(descriptor, False)
        self.jobs[job.key] = job
        self.wake()

    def remove(self, key: str) -> None:
        """Kill a job, if it is there, and forget it."""
        job = self.jobs.pop(key, None)
        if job is not None:
            self._removed.append(job)
            job.kill()
            self.wake()

    def wake(self) -> None:
        """Make the thread look at the jobs again."""
        if self._thread is not None and not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_writer, b"x")

    def close(self) -> None:
        """Kill all jobs and end the thread."""
        with self._lock:
            self._closing = True
            self.wake()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _run(self) -> None:
        try:
            self._read_all()
        finally:
            # After an error too: a job that nobody reads ends.
            self._close_jobs()

    def _read_all(self) -> None:
        while True:
            with self._lock:
                if self._closing:
                    break
                self._follow_jobs()
            for key, _ in self._selector.select(timeout=1.0):
                if key.fd == self._wake_reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_reader, _READ_BYTES)
                elif key.fd in self._listening:
                    self._read(key.fd, *self._listening[key.fd])
            self._close_pipes_held_by_others()

    def _close_jobs(self) -> None:
        for job in (*self.jobs.values(), *self._removed, *(job for job, _ in self._listening.values())):
            job.close()

    def _follow_jobs(self) -> None:
        """Have the selector follow the jobs there are now; those whose buffer is full wait."""
        wanted: dict[int, tuple[LocalJob, Stream | None]] = {}
        for job in self.jobs.values():
            job.paused = job.output.is_full
            if job.exit is None:
                wanted[job.control.fileno()] = (job, None)
            if not job.paused:
                wanted.update({descriptor: (job, stream) for descriptor, stream in job.open_streams.items()})
        for descriptor in [d for d in self._listening if d not in wanted]:
            self._selector.unregister(descriptor)
            del self._listening[descriptor]
        for job in self._removed:
            job.close()
        self._removed.clear()
        for descriptor, owner in wanted.items():
            if descriptor not in self._listening:
                self._selector.register(descriptor, selectors.EVENT_READ)
                self._listening[descriptor] = owner

    def _read(self, descriptor: int, job: LocalJob, stream: Stream | None) -> None:
        if stream is None:
            self._read_reports(job)
            return
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        with self._lock:
            if not data:
                self._close_pipe(descriptor, job)
                return
            job.output.add([LogChunk(stream=stream, data=data)])
            if job.exit is not None:
                job.unread[descriptor] -= len(data)
            if job.output.is_full:
                self._changed()

    def _read_reports(self, job: LocalJob) -> None:
        try:
            data = job.control.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        with self._lock:
            job.take_reports(data)
            if job.exit is not None:
                self._changed()

    def _close_pipes_held_by_others(self) -> None:
        """Close the pipes that another process still holds open, once all that the command has left there is read."""
        with self._lock:
            latest = time.monotonic() - _DRAIN_SECONDS
            for descriptor, (job, stream) in list(self._listening.items()):
                if stream and job.exit is not None and job.exited_at < latest and job.unread[descriptor] <= 0:
                    self._close_pipe(descriptor, job)

    def _close_pipe(self, descriptor: int, job: LocalJob) -> None:
        self._selector.unregister(descriptor)
        del self._listening[descriptor]
        del job.open_streams[descriptor]
        os.close(descriptor)
        if job.has_ended:
            self._changed()

"""One thread that reads the output of all local jobs, and what their keepers report."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from ..base import LogChunk, Stream
from .local_job import KeeperLink, LocalJob

_READ_BYTES = 65536
_WAIT_SECONDS = 1.0
# Of the keepers that a burst of jobs has left: each has 2 MB of its own.
_MOST_IDLE = 32
# After the command's whole tree has been ended its pipes end at once; a descriptor passed elsewhere must not hold us.
_DRAIN_SECONDS = 2.0


class OutputPump:
    """Reads for all jobs; ``changed`` is called when one has ended, or its buffer is full.

    ``lock`` guards the jobs and keepers: all callers but those of `close` hold it, and so do readers of ``jobs`` and
    ``idle``, the keepers that wait for a job. Only the pump's thread closes descriptors, since it may be reading them.
    """

    def __init__(self, lock: threading.Lock, *, changed: Callable[[], None]) -> None:
        self.jobs: dict[str, LocalJob] = {}
        self.idle: list[KeeperLink] = []
        self._lock, self._changed = lock, changed
        # By descriptor: a keeper's control socket, or a pipe of a job.
        self._sources: dict[int, KeeperLink | tuple[LocalJob, Stream]] = {}
        # Their pipes are to be closed: of the first at once, of the others once all that is theirs was read.
        self._removed: list[LocalJob] = []
        self._exited: list[LocalJob] = []
        self._poller = select.epoll()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._poller.register(self._wake_reader, select.EPOLLIN)
        self._thread: threading.Thread | None = None
        self._closing = self._closed = False

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="container-manager-output", daemon=True)
            self._thread.start()

    def add_keeper(self, keeper: KeeperLink) -> None:
        self._follow(keeper.control.fileno(), keeper)
        self.idle.append(keeper)

    def add(self, job: LocalJob) -> None:
        """Follow a job that was just given to a keeper."""
        self.jobs[job.key] = job
        for descriptor, stream in job.open_streams.items():
            os.set_blocking(descriptor, False)
            self._follow(descriptor, (job, stream))

    def remove(self, key: str) -> None:
        """Kill a job, if it is there, and forget it."""
        job = self.jobs.pop(key, None)
        if job is None:
            return
        if job.keeper is not None:
            job.keeper.end()
        if job.open_streams:
            self._removed.append(job)
            self._wake()

    def resume(self, job: LocalJob) -> None:
        """Read on, once a buffer that was full has room."""
        job.paused = False
        for descriptor in job.open_streams:
            self._poller.register(descriptor, select.EPOLLIN)

    def end_idle(self) -> None:
        """End the keepers that wait."""
        while self.idle:
            self.idle.pop().end()

    def retire_keepers(self) -> list[KeeperLink]:
        """Have all keepers end, each with its present job; return them."""
        self.end_idle()
        keepers = self.keepers
        for keeper in keepers:
            keeper.is_retired = True
        return keepers

    @property
    def keepers(self) -> list[KeeperLink]:
        """The keepers that have not ended."""
        return [source for source in self._sources.values() if isinstance(source, KeeperLink)]

    def close(self) -> None:
        """Kill all jobs and end the thread."""
        with self._lock:
            self._closing = True
            self._wake()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._poller.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _wake(self) -> None:
        if not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_writer, b"x")

    def _follow(self, descriptor: int, source: KeeperLink | tuple[LocalJob, Stream]) -> None:
        self._sources[descriptor] = source
        self._poller.register(descriptor, select.EPOLLIN)

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
                self._close_pipes_of_removed()
                self._close_pipes_held_by_others()
            for descriptor, _ in self._poller.poll(_WAIT_SECONDS):
                source = self._sources.get(descriptor)
                if isinstance(source, KeeperLink):
                    self._read_reports(source)
                elif source is not None:
                    self._read_output(descriptor, *source)
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_reader, _READ_BYTES)

    def _close_jobs(self) -> None:
        for descriptor, source in self._sources.items():
            if isinstance(source, KeeperLink):
                source.control.close()
            else:
                os.close(descriptor)

    def _read_output(self, descriptor: int, job: LocalJob, stream: Stream) -> None:
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
            if job.output.is_full and not job.paused:
                job.paused = True
                for other in job.open_streams:
                    self._poller.unregister(other)
                self._changed()

    def _read_reports(self, keeper: KeeperLink) -> None:
        try:
            data = keeper.control.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        with self._lock:
            job = keeper.job
            keeper.take_reports(data)
            if job is not None and job.has_ended:
                self._changed()
            elif job is not None and job.exit is not None:
                self._exited.append(job)
            if not data:
                self._forget(keeper)
            elif job is not None and keeper.is_idle:
                if len(self.idle) < _MOST_IDLE and not keeper.is_retired:
                    self.idle.append(keeper)
                else:
                    keeper.end()

    def _forget(self, keeper: KeeperLink) -> None:
        if keeper in self.idle:
            self.idle.remove(keeper)
        descriptor = keeper.control.fileno()
        self._poller.unregister(descriptor)
        del self._sources[descriptor]
        keeper.control.close()

    def _close_pipes_of_removed(self) -> None:
        for job in self._removed:
            for descriptor in list(job.open_streams):
                self._close_pipe(descriptor, job)
        self._removed.clear()

    def _close_pipes_held_by_others(self) -> None:
        """Close the pipes that another process still holds open, once all that the command has left there is read."""
        latest = time.monotonic() - _DRAIN_SECONDS
        for job in self._exited:
            for descriptor in list(job.open_streams):
                if job.exited_at < latest and job.unread[descriptor] <= 0:
                    self._close_pipe(descriptor, job)
        self._exited = [job for job in self._exited if job.open_streams]

    def _close_pipe(self, descriptor: int, job: LocalJob) -> None:
        with contextlib.suppress(FileNotFoundError):
            # One that is paused is not followed.
            self._poller.unregister(descriptor)
        del self._sources[descriptor]
        del job.open_streams[descriptor]
        os.close(descriptor)
        if job.has_ended:
            self._changed()

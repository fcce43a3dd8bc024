"""One container's output, fetched by a thread of its own while its buffer has room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...jobs.package_log import package_logger
from ...jobs.printable import escaped
from ..base import LogChunk, LogPage, Phase, Unavailable
from ..output_buffer import OutputBuffer
from .daemon import RETRY_SECONDS, Daemon
from .daemon_answers import SILENCE_SECONDS, Answer, Gone
from .exits import PHASES
from .frames import FrameDecoder, LastFrame, Positions, since

# Following a log that is opened after its container's end may never end (measured with 20.10).
_END_SILENCE_SECONDS = 1.0
# The last line of an output that could not be read to its end.
_GONE = "The container was removed before all of its output was read: what is missing here is lost."
# A container that ends within this time is read at once instead of followed, which saves calls to the daemon.
_END_SECONDS = 0.2
# The pauses between two readings of a log that is not followed: after output, and in the end after none. An engine may
# read the whole log for each, so that a pause is also this many times as long as the reading took.
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.5, 4.0
_POLL_SHARE = 4
logger = package_logger(__name__)


class FollowedOutput:
    """The output of the container of this name. ``changed`` is called when the buffer is full, and at the end."""

    def __init__(self, name: str, daemon: Daemon, changed: Callable[[], None]) -> None:
        self._name, self._daemon, self._changed = name, daemon, changed
        # Its id once that is known: unlike the name it never changes.
        self._container = name
        self._buffer = OutputBuffer()
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._answer: Answer | None = None
        self._received: Positions = {}
        self._heard_at = time.monotonic()
        self._noted: set[str] = set()
        self._complete = self._closed = self._has_exited = self._follows = False
        self._last_frame, self._poll_seconds = LastFrame(), _POLL_SECONDS

    def note(self, text: str) -> None:
        """Add a line of the worker's own."""
        with self._state:
            self._buffer.add([LogChunk(stream="system", data=escaped(text).encode() + b"\n")])

    def note_once(self, text: str) -> None:
        """Add a line of the worker's own that does not change with each try of a launch."""
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)

    def follow(self) -> None:
        """Start fetching, unless that has started."""
        with self._state:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._fetch, name=f"container-manager-{self._name}", daemon=True)
                self._thread.start()

    def page(self, cursor: str, limit: int, *, has_exited: bool) -> LogPage:
        """Return buffered output after a cursor; ``has_exited`` tells the thread of the container's end."""
        with self._state:
            chunks, after = self._buffer.take(cursor, limit)
            self._has_exited = self._has_exited or has_exited
            self._state.notify_all()
            # While the buffer has room, what is waited for is the daemon.
            is_over = has_exited and self._follows and self._buffer.is_empty
            bound = _END_SILENCE_SECONDS if is_over else SILENCE_SECONDS
            silent = time.monotonic() - self._heard_at > bound
            if silent and not self._buffer.is_full and self._answer is not None:
                self._answer.interrupt()
            return LogPage(chunks=chunks, cursor=after, complete=not chunks and self._complete)

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
            if self._answer is not None:
                self._answer.interrupt()

    def _fetch(self) -> None:
        follow = True
        while not self._closed:
            try:
                if follow:
                    phase = self._phase()
                    if phase is Phase.CREATED:
                        # Following the log of a container that was not started ends at once.
                        self._pause()
                        continue
                    follow = phase is Phase.RUNNING
                if follow and not self._daemon.flavour().follows_logs:
                    self._poll()
                    continue
                self._read(follow=follow)
                # So a followed log is read once more: it may lack its last piece (measured with 20.10).
                if not follow:
                    break
            except Gone:
                if not self._closed:
                    self.note(_GONE)
                break
            except Unavailable:
                self._pause()
            except Exception:
                # Of this container alone: it would end one worker after another.
                logger.exception("The output of %s was not understood, the rest of it is not kept", self._name)
                self.note("The rest of the output was not understood.")
                break
        with self._state:
            self._complete = True
        self._changed()

    def _phase(self) -> Phase | None:
        with self._state:
            if self._state.wait_for(lambda: self._closed or self._has_exited, timeout=_END_SECONDS):
                return Phase.EXITED
        found = self._daemon.inspect(self._name)
        self._container = found["Id"]
        return PHASES.get(found["State"]["Status"])

    def _pause(self) -> None:
        with self._state:
            self._state.wait_for(lambda: self._closed, timeout=RETRY_SECONDS)

    def _poll(self) -> None:
        """Read what is there, and wait."""
        began, before = time.monotonic(), self._received
        self._read(follow=False, is_written=True)
        is_silent = self._received == before
        self._poll_seconds = min(2 * self._poll_seconds, _LONGEST_POLL_SECONDS) if is_silent else _POLL_SECONDS
        seconds = max(self._poll_seconds, _POLL_SHARE * (time.monotonic() - began))
        with self._state:
            self._state.wait_for(lambda: self._closed or self._has_exited, timeout=seconds)

    def _read(self, *, follow: bool, is_written: bool = False) -> None:
        try:
            self._read_on(follow=follow, is_written=is_written)
        except Gone:
            # It may have been renamed before its id was known.
            if (container := self._daemon.inspect(self._name)["Id"]) == self._container:
                raise
            self._container = container
            self._read_on(follow=follow, is_written=is_written)

    def _read_on(self, *, follow: bool, is_written: bool) -> None:
        """Read the log from the last position to its end; ``is_written``: its last line may be incomplete."""
        parameters: dict[str, str | int] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        if (from_time := since(self._received)) is not None:
            parameters["since"] = from_time
        decoder = FrameDecoder(self._received, drops_newlines=self._daemon.flavour().drops_newlines)
        # Of a log that is followed anything may come late.
        silence = None if follow else self._daemon.answer_seconds
        path = f"/containers/{self._container}/logs"
        with self._daemon.stream(path, parameters, silence_seconds=silence) as answer:
            try:
                with self._state:
                    if self._closed:
                        return
                    self._answer, self._follows, self._heard_at = answer, follow, time.monotonic()
                pieces = answer.pieces()
                for piece in self._last_frame.without_it(pieces) if is_written else pieces:
                    chunks = decoder.feed(piece)
                    self._received = decoder.positions
                    self._add(chunks)
            finally:
                with self._state:
                    self._answer = None

    def _add(self, chunks: list[LogChunk]) -> None:
        with self._state:
            self._heard_at = time.monotonic()
            self._buffer.add(chunks)
            is_full = self._buffer.is_full
        if is_full:
            self._changed()
            with self._state:
                self._state.wait_for(lambda: self._closed or not self._buffer.is_full)
                self._heard_at = time.monotonic()

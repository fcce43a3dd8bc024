"""One container's output, fetched ahead by a thread of its own as far as its buffer has room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..base import LogChunk, LogPage, Phase, Unavailable
from ..output_buffer import OutputBuffer
from .daemon import RETRY_SECONDS, Answer, Daemon, Gone
from .exits import PHASES
from .frames import FrameDecoder, Positions, since

# A log that is followed from after its container's end may never be said to be over (measured with 20.10).
_SILENCE_SECONDS = 1.0
# What ends within this time after it has begun, or after its log has, is read at once: calls fewer to the daemon.
_END_SECONDS = 0.2


class FollowedOutput:
    """The output of the container of this name; ``changed`` is called when there is no room left, and at the end."""

    def __init__(self, name: str, daemon: Daemon, changed: Callable[[], None]) -> None:
        self._name, self._daemon, self._changed = name, daemon, changed
        # Its id once that is known: nobody changes it.
        self._container = name
        self._buffer = OutputBuffer()
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._answer: Answer | None = None
        self._received: Positions = {}
        self._heard_at = time.monotonic()
        self._complete = self._closed = self._has_exited = False

    def note(self, text: str) -> None:
        """Add a line of the worker's own."""
        with self._state:
            self._buffer.add([LogChunk(stream="system", data=text.encode() + b"\n")])

    def follow(self) -> None:
        """Begin to fetch, if that has not begun."""
        with self._state:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._fetch, name=f"container-manager-{self._name}", daemon=True)
                self._thread.start()

    def page(self, cursor: str, limit: int, *, has_exited: bool) -> LogPage:
        """Return what is there after a cursor; knowing of the container's end, wait no longer than it takes."""
        with self._state:
            chunks, after = self._buffer.take(cursor, limit)
            self._has_exited = self._has_exited or has_exited
            self._state.notify_all()
            silent = time.monotonic() - self._heard_at > _SILENCE_SECONDS
            if has_exited and silent and self._buffer.is_empty and self._answer is not None:
                self._answer.break_off()
            return LogPage(chunks=chunks, cursor=after, complete=not chunks and self._complete)

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
            if self._answer is not None:
                self._answer.break_off()

    def _fetch(self) -> None:
        follow = True
        while not self._closed:
            try:
                if follow:
                    phase = self._phase()
                    if phase is Phase.CREATED:
                        # To follow what has not begun ends at once.
                        self._pause()
                        continue
                    follow = phase is Phase.RUNNING
                self._read(follow=follow)
                # A log that is followed may lose its last piece at the container's end (measured with 20.10).
                if not follow:
                    break
            except Gone:
                break
            except Unavailable:
                self._pause()
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

    def _read(self, *, follow: bool) -> None:
        try:
            self._read_on(follow=follow)
        except Gone:
            # Somebody may have renamed it before its id was known.
            if (container := self._daemon.inspect(self._name)["Id"]) == self._container:
                raise
            self._container = container
            self._read_on(follow=follow)

    def _read_on(self, *, follow: bool) -> None:
        """Read the log from where it was left to its end."""
        parameters: dict[str, str | int] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        if (from_time := since(self._received)) is not None:
            parameters["since"] = from_time
        decoder = FrameDecoder(self._received)
        with self._daemon.stream(f"/containers/{self._container}/logs", parameters) as answer:
            try:
                with self._state:
                    if self._closed:
                        return
                    self._answer, self._heard_at = answer, time.monotonic()
                for piece in answer.pieces():
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

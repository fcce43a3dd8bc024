"""The daemon's log format, both streams in one: frames of an 8-byte header, a timestamp and a piece of output.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach, "Stream format".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ..base import LogChunk, Stream

_HEADER_BYTES = 8
_STREAMS: dict[int, Stream] = {0: "stdout", 1: "stdout", 2: "stderr", 3: "system"}
_NEWLINE = ord("\n")
_SKEW_SECONDS = 2


@dataclass(slots=True)
class Position:
    """How far one stream was received: ``size`` bytes of the ``frames``-th frame with this timestamp.

    ``in_line``: the line continues in the next frame, which has the same timestamp, however much later it comes.
    """

    timestamp: bytes = b""
    frames: int = 0
    size: int = 0
    in_line: bool = False


Positions = Mapping[Stream, Position]


def since(positions: Positions) -> str | None:
    """Return from when the daemon has to send again, in seconds since 1970; None: from the start.

    The streams' timestamps are taken separately, so that one may be a little behind the other.
    """
    if not positions:
        return None
    latest = max(_seconds(position.timestamp) for position in positions.values()) - _SKEW_SECONDS
    return str(min([latest, *(_seconds(position.timestamp) for position in positions.values() if position.in_line)]))


def _seconds(timestamp: bytes) -> int:
    return int(datetime.fromisoformat(timestamp.decode("ascii")).timestamp())


class LastFrame:
    """Hold back the last frame of a log that is read while it is written: it may be a part of a line."""

    def __init__(self) -> None:
        # The last frame of the last reading, and where it began.
        self._last = (0, b"")

    def without_it(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the frames but the last, and that too where the last reading ended with the same one."""
        held, begin = b"", 0
        for piece in pieces:
            data = held + piece
            at = 0
            while (after := at + _frame_bytes(data, at)) < len(data):
                at = after
            yield data[:at]
            held, begin = data[at:], begin + at
        if self._last == (begin, held):
            yield held
        self._last = (begin, held)


def _frame_bytes(data: bytes, at: int) -> int:
    header = data[at : at + _HEADER_BYTES]
    return _HEADER_BYTES + (int.from_bytes(header[4:], "big") if len(header) == _HEADER_BYTES else 0)


class FrameDecoder:
    """Decodes pieces of any size into output, and skips what comes before the positions ``after``.

    Frames of a stream with the same timestamp are told apart by their number. ``drops_newlines``: whether the daemon
    drops the newline of a line that is longer than a frame.
    """

    def __init__(self, after: Positions | None = None, *, drops_newlines: bool = True) -> None:
        self._drops_newlines = drops_newlines
        self.positions: dict[Stream, Position] = {stream: replace(place) for stream, place in (after or {}).items()}
        self._after = dict(after or {})
        self._header = b""
        self._left = 0
        self._stream: Stream = "stdout"
        # What was received of this frame's; None once it is complete.
        self._timestamp: bytes | None = None
        self._counts: dict[Stream, tuple[bytes, int]] = {}
        self._skip = 0

    def feed(self, data: bytes) -> list[LogChunk]:
        """Return the output in a piece; neighbouring frames of one stream are one chunk."""
        runs: list[tuple[Stream, list[memoryview]]] = []
        view, at = memoryview(data), 0
        while at < len(data):
            if not self._left:
                at = self._take_header(data, at)
            elif self._timestamp is not None:
                at, lost = self._take_timestamp(self._timestamp, data, at)
                if lost:
                    _add(runs, self._stream, memoryview(lost))
            else:
                payload = view[at : at + self._left]
                at += len(payload)
                self._left -= len(payload)
                skipped = min(self._skip, len(payload))
                self._skip -= skipped
                if skipped < len(payload):
                    _add(runs, self._stream, payload[skipped:])
                    self._advance(payload[skipped:])
        return [LogChunk(stream=stream, data=b"".join(parts)) for stream, parts in runs]

    def _take_header(self, data: bytes, at: int) -> int:
        part = data[at : at + _HEADER_BYTES - len(self._header)]
        self._header += part
        if len(self._header) == _HEADER_BYTES:
            self._stream = _STREAMS.get(self._header[0], "system")
            self._left = int.from_bytes(self._header[4:], "big")
            self._header, self._timestamp = b"", b""
        return at + len(part)

    def _take_timestamp(self, begun: bytes, data: bytes, at: int) -> tuple[int, bytes]:
        lost = b""
        space = data.find(b" ", at, at + self._left)
        end = space + 1 if space >= 0 else min(len(data), at + self._left)
        self._timestamp = begun + data[at:end]
        self._left -= end - at
        if space >= 0:
            lost = self._begin(self._timestamp[:-1])
            self._timestamp = None
        return end, lost

    def _begin(self, timestamp: bytes) -> bytes:
        """Begin a frame's payload; return the newline that the daemon has dropped before it.

        The log driver `local` (20.10) drops the newline of a line that is longer than a frame. The next frame then has
        another timestamp, or is empty.
        """
        last, count = self._counts.get(self._stream, (b"", 0))
        here = (timestamp, count + 1 if timestamp == last else 1)
        self._counts[self._stream] = here
        self._skip = 0
        if (after := self._after.get(self._stream)) is not None:
            there = (after.timestamp, after.frames)
            if here <= there:
                self._skip = after.size if here == there else self._left
                return b""
            del self._after[self._stream]
        before = self.positions.get(self._stream)
        # If the connection is cut here, the rest is requested again.
        self.positions[self._stream] = Position(timestamp, here[1], in_line=self._left > 0)
        is_over = before is not None and before.in_line and (before.timestamp != timestamp or not self._left)
        return b"\n" if is_over and self._drops_newlines else b""

    def _advance(self, payload: memoryview) -> None:
        position = self.positions[self._stream]
        position.size += len(payload)
        position.in_line = payload[-1] != _NEWLINE


def _add(runs: list[tuple[Stream, list[memoryview]]], stream: Stream, payload: memoryview) -> None:
    if not runs or runs[-1][0] != stream:
        runs.append((stream, []))
    runs[-1][1].append(payload)

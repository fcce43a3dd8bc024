"""The daemon's way to send both streams in one: frames of eight bytes of header, a timestamp and a piece of output.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach, "Stream format".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..base import LogChunk, Stream

_HEADER_BYTES = 8
_STREAMS: dict[int, Stream] = {0: "stdout", 1: "stdout", 2: "stderr", 3: "system"}
# The length of 2006-01-02T15:04:05, and where its fraction ends.
_SECONDS_END, _FRACTION_END = 19, 29


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a log was received: so many bytes of the ``frames``-th frame of this timestamp."""

    timestamp: bytes
    frames: int
    size: int

    @property
    def since(self) -> str:
        """The timestamp as the daemon wants it: seconds since 1970 with nine decimals."""
        text = self.timestamp.decode("ascii")
        seconds = datetime.fromisoformat(text[:_SECONDS_END] + text[_FRACTION_END:].replace("Z", "+00:00")).timestamp()
        return f"{int(seconds)}{text[_SECONDS_END:_FRACTION_END]}"


class FrameDecoder:
    """Takes the bytes in pieces of any size, gives the output as it comes, without what comes before ``after``.

    Frames that begin at the same nanosecond are told apart by their number.
    """

    def __init__(self, after: Position | None = None) -> None:
        self._after = after
        self._header = b""
        self._left = 0
        self._stream: Stream = "stdout"
        # What is known of this frame's; None behind it.
        self._timestamp: bytes | None = None
        self._last, self._frames, self._size = b"", 0, 0
        self._known = self._skip = 0

    @property
    def position(self) -> Position | None:
        """Where to go on should the bytes end here."""
        if self._after is not None or not self._frames:
            return self._after
        return Position(timestamp=self._last, frames=self._frames, size=max(self._size, self._known))

    def feed(self, data: bytes) -> list[LogChunk]:
        """Return what is known of the streams now; neighbours of one stream are one chunk."""
        runs: list[tuple[Stream, list[memoryview]]] = []
        view, at = memoryview(data), 0
        while at < len(data):
            if not self._left:
                at = self._take_header(data, at)
            elif self._timestamp is not None:
                at = self._take_timestamp(self._timestamp, data, at)
            else:
                payload = view[at : at + self._left]
                at += len(payload)
                self._left -= len(payload)
                self._size += len(payload)
                skipped = min(self._skip, len(payload))
                self._skip -= skipped
                if skipped < len(payload):
                    if not runs or runs[-1][0] != self._stream:
                        runs.append((self._stream, []))
                    runs[-1][1].append(payload[skipped:])
        return [LogChunk(stream=stream, data=b"".join(parts)) for stream, parts in runs]

    def _take_header(self, data: bytes, at: int) -> int:
        part = data[at : at + _HEADER_BYTES - len(self._header)]
        self._header += part
        if len(self._header) == _HEADER_BYTES:
            self._stream = _STREAMS.get(self._header[0], "system")
            self._left = int.from_bytes(self._header[4:], "big")
            self._header, self._timestamp = b"", b""
        return at + len(part)

    def _take_timestamp(self, begun: bytes, data: bytes, at: int) -> int:
        space = data.find(b" ", at, at + self._left)
        end = space + 1 if space >= 0 else min(len(data), at + self._left)
        self._timestamp = begun + data[at:end]
        self._left -= end - at
        if space >= 0:
            self._begin(self._timestamp[:-1])
            self._timestamp = None
        return end

    def _begin(self, timestamp: bytes) -> None:
        self._frames = self._frames + 1 if timestamp == self._last else 1
        self._last, self._size, self._known = timestamp, 0, 0
        self._skip = 0
        if self._after is None:
            return
        if (timestamp, self._frames) < (self._after.timestamp, self._after.frames):
            self._skip = self._left
            return
        if (timestamp, self._frames) == (self._after.timestamp, self._after.frames):
            self._known = self._skip = self._after.size
        self._after = None

"""The daemon's way to send both streams in one: frames of eight bytes of header and a payload.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach, "Stream format".
"""

from __future__ import annotations

from ..base import LogChunk, Stream

_HEADER_BYTES = 8
_STREAMS: dict[int, Stream] = {0: "stdout", 1: "stdout", 2: "stderr", 3: "system"}


class FrameDecoder:
    """Takes the bytes in pieces of any size, gives the payloads as they come."""

    def __init__(self) -> None:
        self._header = b""
        self._stream: Stream = "stdout"
        self._left = 0

    def feed(self, data: bytes) -> list[LogChunk]:
        """Return what is known of the streams now; neighbours of one stream are one chunk."""
        runs: list[tuple[Stream, list[memoryview]]] = []
        view, position = memoryview(data), 0
        while position < len(data):
            if not self._left:
                part = data[position : position + _HEADER_BYTES - len(self._header)]
                self._header += part
                position += len(part)
                if len(self._header) == _HEADER_BYTES:
                    self._stream = _STREAMS.get(self._header[0], "system")
                    self._left = int.from_bytes(self._header[4:], "big")
                    self._header = b""
                continue
            payload = view[position : position + self._left]
            position += len(payload)
            self._left -= len(payload)
            if not runs or runs[-1][0] != self._stream:
                runs.append((self._stream, []))
            runs[-1][1].append(payload)
        return [LogChunk(stream=stream, data=b"".join(parts)) for stream, parts in runs]

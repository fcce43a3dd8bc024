"""Replace secrets' values in an attempt's output, across the boundaries of its chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..executors.base import LogChunk, Stream

MARK = b"***"
# What is shorter is in any output, and would tell the secret by what is missing.
_LEAST_BYTES = 4
# A line of a value with several, such as a key, is masked by itself from this length on.
_LEAST_LINE_BYTES = 8
_PROBE_BYTES = 8


@dataclass(slots=True)
class _Held:
    """The end of a stream, which may be the beginning of a value; as far as ``covered`` it is part of one already.

    ``marked``: the last byte before it was masked, so that what follows seamlessly needs no other mark.
    """

    data: bytes = b""
    covered: int = 0
    marked: bool = False


class Mask:
    """Takes the chunks of an attempt in order and returns them with values masked; a few bytes come with the next."""

    def __init__(self, values: Iterable[bytes]) -> None:
        parts = {value.strip(b"\r\n") for value in values}
        parts |= {line for value in parts if b"\n" in value for line in _long_lines(value)}
        self._values = sorted((part for part in parts if len(part) >= _LEAST_BYTES), key=len, reverse=True)
        self._held: dict[Stream, _Held] = {}

    def feed(self, chunks: Iterable[LogChunk]) -> list[LogChunk]:
        """Return the chunks masked, without the end of a stream that may be the beginning of a value."""
        fed = (self._feed(chunk.stream, chunk.data, self._held.setdefault(chunk.stream, _Held())) for chunk in chunks)
        return [chunk for chunk in fed if chunk.data]

    def flush(self) -> list[LogChunk]:
        """Return what was held back, once nothing follows."""
        held, self._held = self._held, {}
        ends = (
            LogChunk(stream=stream, data=_masked(end, b"", self._spans(end.data), len(end.data)))
            for stream, end in held.items()
        )
        return [chunk for chunk in ends if chunk.data]

    def text(self, text: str) -> str:
        """Return a whole text masked."""
        data = text.encode(errors="surrogateescape")
        return _masked(_Held(), data, self._spans(data), len(data)).decode(errors="surrogateescape")

    def _feed(self, stream: Stream, new: bytes, held: _Held) -> LogChunk:
        data = held.data + new
        spans, keep = self._spans(data), self._open_end(data)
        masked = _masked(held, new, spans, keep)
        # What begins later is found again.
        covered = max(held.covered, *(end for start, end in spans if start < keep), keep)
        held.data, held.covered = data[keep:], covered - keep
        return LogChunk(stream=stream, data=masked)

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """Return where values are, those that overlap too."""
        return sorted((start, start + len(value)) for value in self._values for start in _occurrences(value, data))

    def _open_end(self, data: bytes) -> int:
        """Return the first position from which a value may begin that goes on beyond the data."""
        least = len(data)
        for value in self._values:
            probe, start = value[:_PROBE_BYTES], max(0, len(data) - len(value) + 1)
            while start < least:
                found = data.find(probe, start)
                # Nearer to the end only a part of the probe is there.
                start = found if found >= 0 else max(start, len(data) - len(probe) + 1)
                if value.startswith(data[start:]):
                    least = min(least, start)
                    break
                start += 1
        return least


def _long_lines(value: bytes) -> Iterator[bytes]:
    return (line for line in map(bytes.strip, value.splitlines()) if len(line) >= _LEAST_LINE_BYTES)


def _occurrences(value: bytes, data: bytes) -> Iterator[int]:
    start = data.find(value)
    while start >= 0:
        yield start
        start = data.find(value, start + 1)


def _masked(held: _Held, new: bytes, spans: Iterable[tuple[int, int]], until: int) -> bytes:
    """Return what was held and what is new, masked, as far as ``until``; note in ``held`` whether that ends masked."""
    data, parts, position = held.data + new, [], 0
    for start, end in [(0, held.covered), *spans]:
        if min(end, until) <= position:
            continue
        if start > position:
            parts.append(data[position : min(start, until)])
            held.marked = False
        if start >= until:
            position = until
            break
        if not held.marked:
            parts.append(MARK)
            held.marked = True
        position = min(end, until)
    if position < until:
        parts.append(data[position:until])
        held.marked = False
    return b"".join(parts)

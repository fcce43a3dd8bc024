"""Keep an attempt's output under a cap: its head and its tail, and a line that says what was dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..executors.base import LogChunk, Stream

_CHUNK_BYTES = 64 * 1024


class CappedOutput:
    """Takes chunks in order, gives out those to store, numbered; holds at most ``limit`` bytes.

    The first half of the limit is given out as it comes. Of what follows the last half is kept until `close`.
    """

    def __init__(self, limit: int) -> None:
        self._head_left = limit // 2
        self._tail_limit = limit - limit // 2
        self._tail: deque[LogChunk] = deque()
        self._tail_size = 0
        self._dropped = 0
        self._sequence = 0
        self._waiting: list[LogChunk] = []

    def feed(self, chunks: Iterable[LogChunk]) -> None:
        for chunk in chunks:
            head, rest = chunk.data[: self._head_left], chunk.data[self._head_left :]
            self._head_left -= len(head)
            if head:
                self._waiting.append(LogChunk(stream=chunk.stream, data=head))
            if rest:
                self._tail.append(LogChunk(stream=chunk.stream, data=rest))
                self._tail_size += len(rest)
                self._trim()

    def take(self) -> list[tuple[int, LogChunk]]:
        """Return what can be stored now and was not returned before, with its sequence number."""
        if not self._waiting:
            return []
        taken = list(self._number(_merged(self._waiting)))
        self._waiting.clear()
        return taken

    def close(self) -> list[tuple[int, LogChunk]]:
        """Return the rest: what was dropped, in words, and the tail."""
        if self._dropped:
            note = f"[{self._dropped} bytes of output dropped here: the log is limited]\n"
            self._waiting.append(LogChunk(stream="system", data=note.encode()))
        self._waiting.extend(self._tail)
        self._tail.clear()
        self._tail_size = self._dropped = 0
        return self.take()

    def say(self, text: str) -> None:
        """Add a line of the worker's own."""
        self._waiting.append(LogChunk(stream="system", data=text.encode() + b"\n"))

    def _trim(self) -> None:
        while self._tail_size > self._tail_limit:
            first = self._tail.popleft()
            excess = self._tail_size - self._tail_limit
            if len(first.data) > excess:
                self._tail.appendleft(LogChunk(stream=first.stream, data=first.data[excess:]))
            cut = min(excess, len(first.data))
            self._tail_size -= cut
            self._dropped += cut

    def _number(self, chunks: Iterable[LogChunk]) -> Iterator[tuple[int, LogChunk]]:
        for chunk in chunks:
            yield self._sequence, chunk
            self._sequence += 1


def _merged(chunks: Iterable[LogChunk]) -> Iterator[LogChunk]:
    """Join neighbours of one stream, up to the size of a row."""
    parts: list[bytes] = []
    size = 0
    stream: Stream = "stdout"
    for chunk in chunks:
        if parts and (chunk.stream != stream or size + len(chunk.data) > _CHUNK_BYTES):
            yield LogChunk(stream=stream, data=b"".join(parts))
            parts, size = [], 0
        stream = chunk.stream
        parts.append(chunk.data)
        size += len(chunk.data)
    if parts:
        yield LogChunk(stream=stream, data=b"".join(parts))

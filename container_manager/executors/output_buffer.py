"""Output that was fetched from an engine and not yet stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .base import LogChunk

_LIMIT_BYTES = 1024 * 1024
# What a chunk takes in addition to its data, about: a job decides how small its chunks are.
_CHUNK_BYTES = 128


class OutputBuffer:
    """Chunks in order, numbered from the start; a cursor is the number of the next one. Not thread-safe."""

    def __init__(self) -> None:
        self._chunks: deque[LogChunk] = deque()
        self._first = 0
        self._size = 0

    @property
    def is_empty(self) -> bool:
        return not self._chunks

    @property
    def is_full(self) -> bool:
        """Whether to fetch nothing until something is taken, so that memory stays flat."""
        return self._size >= _LIMIT_BYTES

    def add(self, chunks: Iterable[LogChunk]) -> None:
        for chunk in chunks:
            self._chunks.append(chunk)
            self._size += _size(chunk)

    def take(self, cursor: str, limit: int) -> tuple[list[LogChunk], str]:
        """Return about ``limit`` bytes after a cursor, and the next cursor; drop what is before the cursor."""
        while self._chunks and self._first < int(cursor or 0):
            self._size -= _size(self._chunks.popleft())
            self._first += 1
        taken: list[LogChunk] = []
        size = 0
        for chunk in self._chunks:
            if taken and size + _size(chunk) > limit:
                break
            taken.append(chunk)
            size += _size(chunk)
        return taken, str(self._first + len(taken))


def _size(chunk: LogChunk) -> int:
    return len(chunk.data) + _CHUNK_BYTES

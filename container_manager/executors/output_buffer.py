"""Output that was fetched from an engine and not yet stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .base import LogChunk

_LIMIT_BYTES = 1024 * 1024


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
            self._size += len(chunk.data)

    def take(self, cursor: str, limit: int) -> tuple[list[LogChunk], str]:
        """Return about ``limit`` bytes after a cursor, and the next cursor; drop what is before the cursor."""
        while self._chunks and self._first < int(cursor or 0):
            self._size -= len(self._chunks.popleft().data)
            self._first += 1
        taken: list[LogChunk] = []
        size = 0
        for chunk in self._chunks:
            if taken and size + len(chunk.data) > limit:
                break
            taken.append(chunk)
            size += len(chunk.data)
        return taken, str(self._first + len(taken))

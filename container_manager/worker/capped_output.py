"""Keep an attempt's output under a cap: its head, its latest tail, and a note of how much was dropped between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from ..executors.base import LogChunk, Stream
from ..store import LogEntry

_ROW_BYTES = 64 * 1024
# The tail is dropped row by row; it has at least this many rows.
_TAIL_ROWS = 16
# A row costs a database about as much as this many bytes of output, so a log has at most a row for each; but a small
# log may have this many.
_BYTES_PER_ROW, _FEW_ROWS = 128, 1024
_STREAMS: frozenset[str] = frozenset(get_args(Stream))
_LAST_SEQUENCE = 2**31 - 1
# No output has so many rows: what has this number or a greater one comes after it.
_FIRST_NOTE = _LAST_SEQUENCE - 2**24


@dataclass(slots=True)
class _Piece:
    """A row of output: its bytes until they are given out to be stored, then only their number."""

    stream: Stream
    size: int
    data: bytearray
    sequence: int | None = None


class CappedOutput:
    """Takes chunks in order, gives out rows to store, and tells which stored rows to delete; ``limit`` is in bytes.

    The number of rows is limited too: each change of the stream, and each pause in the output, begins another.

    The first half of the limit (head) stays. The second half (tail) is a ring buffer: the oldest rows make room for new
    ones, so that the end of a long output can be read while it grows. ``replaces``: delete what is stored already,
    since another worker has cut it in other places. ``was_launched``: only for output of the command, which the engine
    may have lost: then the worker's own lines (of the stream ``system``) are added in the end to what is stored.
    """

    def __init__(self, limit: int, *, replaces: bool = False, was_launched: bool = False) -> None:
        self._head_left = limit // 2
        self._tail_limit = limit - limit // 2
        self._head_rows = self._tail_rows = max(_FEW_ROWS, limit // _BYTES_PER_ROW) // 2
        self._row_bytes = max(1, min(_ROW_BYTES, self._tail_limit // _TAIL_ROWS))
        self._head: deque[_Piece] = deque()
        self._tail: deque[_Piece] = deque()
        self._tail_size = 0
        self._dropped = self._dropped_said = 0
        self._sequence = 0
        # The sequence number of the note. It is that of the tail's first row, which is the first to be deleted.
        self._note: int | None = None
        self._replaces = replaces
        self._was_launched = was_launched

    def feed(self, chunks: Iterable[LogChunk]) -> None:
        """Take the next chunks."""
        for chunk in chunks:
            data = memoryview(chunk.data)
            stream = chunk.stream if chunk.stream in _STREAMS else "system"
            head, rest = data[: self._head_left], data[self._head_left :]
            self._head_left -= len(head)
            self._head_rows -= _append(self._head, stream, head, _ROW_BYTES)
            if self._head_rows <= 0:
                self._head_left = 0
            _append(self._tail, stream, rest, self._row_bytes)
            self._tail_size += len(rest)
            while self._tail_size > self._tail_limit or len(self._tail) > self._tail_rows:
                first = self._tail.popleft()
                self._tail_size -= first.size
                self._dropped += first.size

    def take(self, *, tail: bool, last: bool = False) -> tuple[list[LogEntry], tuple[int, int] | None]:
        """Return the rows to store (those of the tail only if asked for), and the range of stored rows to delete.

        ``last``: nothing will be fed any more.

        Delete first: then there is never more than the limit.
        """
        if self._replaces and self._was_launched and all(p.stream == "system" for p in (*self._head, *self._tail)):
            return self._take_notes() if last else ([], None)
        entries = [self._give_out(piece) for piece in self._head]
        self._head.clear()
        gone = None
        if tail and self._tail and self._tail[-1].sequence is None:
            drops = self._dropped > self._dropped_said
            if self._note is None:
                self._note = self._next_sequence() if drops else self._sequence
            fresh = [self._give_out(piece) for piece in self._tail if piece.sequence is None]
            if drops:
                self._dropped_said = self._dropped
                gone = (self._note, self._tail[0].sequence or 0)
                note = f"[{self._dropped} bytes of output dropped here: the log is limited]\n"
                entries.append(LogEntry(sequence=self._note, stream="system", data=note.encode()))
            entries += fresh
        if entries and self._replaces:
            gone, self._replaces = (0, _LAST_SEQUENCE), False
        return entries, gone

    def _take_notes(self) -> tuple[list[LogEntry], tuple[int, int]]:
        """Return the worker's own lines, to be stored after what is, in place of those of another worker."""
        self._sequence = _FIRST_NOTE
        return [self._give_out(piece) for piece in (*self._head, *self._tail)], (_FIRST_NOTE, _LAST_SEQUENCE)

    def _give_out(self, piece: _Piece) -> LogEntry:
        piece.sequence = self._next_sequence()
        entry = LogEntry(sequence=piece.sequence, stream=piece.stream, data=bytes(piece.data))
        piece.data = bytearray()
        return entry

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1


def _append(pieces: deque[_Piece], stream: Stream, data: memoryview, row_bytes: int) -> int:
    """Append to the last piece while it has the same stream, has room and was not given out; then to new pieces.

    Return how many these are.
    """
    before = len(pieces)
    while data:
        last = pieces[-1] if pieces else None
        if last is None or last.sequence is not None or last.stream != stream or last.size >= row_bytes:
            last = _Piece(stream, 0, bytearray())
            pieces.append(last)
        part = data[: row_bytes - last.size]
        last.data += part
        last.size += len(part)
        data = data[len(part) :]
    return len(pieces) - before

"""Take a kubelet's log apart, whose lines begin with timestamps: what was read before, what is new, what is missing."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")
_STAMP_BYTES = 40
_NANOSECONDS = 10**9
# Of the two streams a line may be written a moment after one with a later time.
_DISORDER_SECONDS = 1
# A kubelet looks at the sizes of logs every 10 s by default, every 3 s at the least that the tests have: a file that it
# has rotated away spans as much.
_ROTATION_NANOSECONDS = 2_500_000_000


@dataclass(slots=True)
class LogPosition:
    """How far a log was read: by the second, how many lines came with a time of it, and the time of the first.

    ``latest``: the latest time, in nanoseconds. ``sent``: how many bytes of the last line came; ``is_whole``: all.
    ``least_delay``: between the time of a line and its arrival, by two clocks, of which this machine's is monotonic;
    ``lateness``: how much more the last line took.
    A kubelet takes the time from which on it is asked for in whole seconds alone, and its order is that of writing: so
    the lines to leave out are counted.
    """

    lines: dict[int, int] = field(default_factory=dict)
    firsts: dict[int, int] = field(default_factory=dict)
    latest: int = 0
    sent: int = 0
    is_whole: bool = True
    least_delay: int | None = None
    lateness: int = 0

    @property
    def since(self) -> str | None:
        """From when on to ask for it; None: from the start."""
        if not self.latest:
            return None
        return _text(self.latest // _NANOSECONDS - _DISORDER_SECONDS)

    def begin_line(self, at: int, arrived: int) -> None:
        """Count a line."""
        second, delay = at // _NANOSECONDS, arrived - at
        self.least_delay = delay if self.least_delay is None else min(delay, self.least_delay)
        self.lateness = delay - self.least_delay
        if at > self.latest:
            self.latest = at
            oldest = second - _DISORDER_SECONDS
            if any(other < oldest for other in self.lines):
                self.lines = {other: count for other, count in self.lines.items() if other >= oldest}
                self.firsts = {other: first for other, first in self.firsts.items() if other >= oldest}
        if second >= self.latest // _NANOSECONDS - _DISORDER_SECONDS:
            self.lines[second] = self.lines.get(second, 0) + 1
            self.firsts.setdefault(second, at)
        self.sent, self.is_whole = 0, False


class StampedLog:
    """One answer with a log. Feed it the pieces in order; ``position`` says how far all answers have come.

    ``missing``: after the first new line, the seconds between what was read last and it, if lines between are gone;
    None: none are. ``first``: the time of the first new line, in nanoseconds. ``doubtful``: for how many seconds
    lines may be missing between two others: a kubelet that follows a log whose reader is late goes on with its
    newest file, and says nothing of those between. ``odd``: what had no timestamp: the kubelet's own words.
    """

    def __init__(self, position: LogPosition) -> None:
        self.position = position
        self.missing: float | None = None
        self.first: int | None = None
        self.doubtful: float | None = None
        self.odd = b""
        self._pending = b""
        self._before, self._latest = sum(position.lines.values()), position.latest
        self._firsts = set(position.firsts.values())
        self._sent, self._was_whole = position.sent, position.is_whole
        # Lines that were read before are counted, or, where the first of them are gone, known by their times.
        self._counts, self._compares, self._seen = bool(position.latest), False, 0
        # Within a line: None: at the start of one; else how many bytes of it are to be left out; -1: all, -2: odd.
        self._leave_out: int | None = None

    @property
    def lacks_all(self) -> bool:
        """Whether no line has come, though there were some: those that were read last are asked for again."""
        return self._counts and self._seen == 0

    def feed(self, piece: bytes, arrived: int | None = None) -> bytes:
        """Return what is new of the output; ``arrived``: when it came, in monotonic nanoseconds; None: now."""
        data, found, start = self._pending + piece, [], 0
        arrived = time.monotonic_ns() if arrived is None else arrived
        self._pending = b""
        while start < len(data):
            if self._leave_out is None:
                if (length := self._begin_line(data, start, arrived)) is None:
                    self._pending = data[start:]
                    break
                start += length
                if start == len(data):
                    break
            end = data.find(b"\n", start)
            stop = len(data) if end < 0 else end + 1
            if new := self._part(data[start:stop]):
                found.append(new)
            start = stop
            if end >= 0:
                self._leave_out = None
        return b"".join(found)

    def _begin_line(self, data: bytes, start: int, arrived: int) -> int | None:
        """Decide about the line that begins here; return the length of its timestamp, None if that is not there yet."""
        head = data[start : start + _STAMP_BYTES]
        match = _STAMP.match(head)
        if match is None or (match.end() == len(head) < _STAMP_BYTES and not head.endswith(b" ")):
            if len(head) < _STAMP_BYTES and b"\n" not in head:
                return None
            if match is None:
                self._leave_out = -2
                return 0
        at = _nanoseconds(match)
        if self._take_known_line(at):
            return match.end()
        position, pause = self.position, at - self.position.latest
        if self.first is None:
            self.first = at
        elif min(position.lateness, pause) >= _ROTATION_NANOSECONDS:
            self.doubtful = max(pause / _NANOSECONDS, self.doubtful or 0.0)
        position.begin_line(at, arrived)
        self._leave_out = 0
        return match.end()

    def _take_known_line(self, at: int) -> bool:
        """Leave out a line that was read before, or what was read of it; return False for a new one."""
        if self._counts and self._seen == 0 and at not in self._firsts:
            # Older lines are gone, so they cannot be counted: all that is later is new.
            self._counts, self._compares = False, True
        if self._compares:
            if at <= self._latest:
                self._leave_out = -1
                return True
            self._compares = False
            self.missing = (at - self._latest) / _NANOSECONDS
        if not self._counts:
            return False
        self._seen += 1
        if self._seen < self._before or (self._seen == self._before and self._was_whole):
            self._leave_out = -1
            return True
        self._counts = False
        if self._seen == self._before:
            self._leave_out = self._sent
            return True
        return False

    def _part(self, part: bytes) -> bytes:
        leave_out = self._leave_out or 0
        if leave_out == -1:
            return b""
        if leave_out == -2:
            self.odd += part
            return b""
        new = part[leave_out:]
        self._leave_out = max(0, leave_out - len(part))
        self.position.sent += len(new)
        self.position.is_whole = part.endswith(b"\n")
        return new


def _nanoseconds(match: re.Match[bytes]) -> int:
    seconds, fraction, zone = match.groups()
    return _epoch(seconds, zone) * _NANOSECONDS + int((fraction or b"0").ljust(9, b"0"))


_LAST: list[tuple[bytes, bytes, int]] = [(b"", b"", 0)]


def _epoch(seconds: bytes, zone: bytes) -> int:
    """Return the seconds since 1970; the last ones are kept, since many lines come in one second."""
    last = _LAST[0]
    if last[:2] == (seconds, zone):
        return last[2]
    found = int(datetime.fromisoformat((seconds + zone).decode()).timestamp())
    _LAST[0] = (seconds, zone, found)
    return found


def _text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

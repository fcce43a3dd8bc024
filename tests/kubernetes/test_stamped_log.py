"""A kubelet's log, taken apart: what was had before, what is new, and what is or may be missing."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from container_manager.executors.kubernetes.stamped_log import LogPosition, StampedLog

pytestmark = pytest.mark.without_database
_SECOND = 10**9
_BEGAN = 1_790_000_000


def line(seconds: float, text: str) -> bytes:
    """Return a line as a kubelet sends it, so many seconds after the beginning."""
    at = datetime.fromtimestamp(_BEGAN + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    return f"{at} {text}\n".encode()


def fed(log: StampedLog, *lines: tuple[float, float]) -> list[float | None]:
    """Feed lines, each by its time and that of its arrival; return what was doubtful after each."""
    found = []
    for at, arrived in lines:
        log.feed(line(at, "x"), int((_BEGAN + arrived) * _SECOND))
        found.append(log.doubtful)
    return found


def test_lines_that_were_read_before_are_left_out_of_the_next_answer() -> None:
    position = LogPosition()
    first = StampedLog(position).feed(line(0, "a") + line(0.5, "b") + line(0.5, "b"))
    again = StampedLog(position)
    assert again.feed(line(0, "a") + line(0.5, "b") + line(0.5, "b") + line(0.5, "b") + line(1, "c")) == b"b\nc\n"
    assert (first, again.missing) == (b"a\nb\nb\n", None)


def test_a_log_answer_that_begins_after_the_last_line_read_reports_the_gap() -> None:
    position = LogPosition()
    StampedLog(position).feed(line(0, "a") + line(2, "b"))
    again = StampedLog(position)
    assert again.feed(line(5, "d")) == b"d\n"
    assert again.missing == 3.0


def test_a_pause_of_a_program_whose_output_is_read_promptly_is_no_gap() -> None:
    """Also by another clock than the node's, and where an old log is caught up with first."""
    assert fed(StampedLog(LogPosition()), (0, -40), (10, -30), (100, 60)) == [None, None, None]
    assert fed(StampedLog(LogPosition()), (0, 500), (10, 500), (100, 500), (600, 600)) == [None, None, None, None]


def test_a_pause_within_output_that_is_read_late_may_be_a_gap() -> None:
    assert fed(StampedLog(LogPosition()), (0, 0), (1, 10), (1.5, 10), (8, 10)) == [None, None, None, 6.5]


def test_a_jump_of_the_workers_clock_makes_no_output_late(monkeypatch: pytest.MonkeyPatch) -> None:
    log = StampedLog(LogPosition())
    log.feed(line(0, "a"))
    jumped = time.time_ns() + 3600 * _SECOND
    monkeypatch.setattr(time, "time_ns", lambda: jumped)
    log.feed(line(5, "b"))
    log.feed(line(10, "c"))
    assert log.doubtful is None


def test_an_empty_log_answer_after_earlier_output_lacks_all_lines() -> None:
    """As of a node that has begun a new file, and has nothing in it yet."""
    position = LogPosition()
    assert not StampedLog(position).lacks_all
    StampedLog(position).feed(line(0, "a"))
    again = StampedLog(position)
    assert again.lacks_all
    again.feed(line(0, "a"))
    assert not again.lacks_all
    later = StampedLog(position)
    later.feed(line(5, "b"))
    assert not later.lacks_all

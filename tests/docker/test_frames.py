"""Frames of the daemon's logs are decoded from pieces of any size, and continued after a cut."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_manager.executors.docker.followed_output import FollowedOutput
from container_manager.executors.docker.frames import FrameDecoder, LastFrame, Position, Positions, since

from ..polling import PATIENCE_SECONDS

pytestmark = pytest.mark.without_database

_NUMBERS = {"stdout": 1, "stderr": 2}


def test_malformed_output_frames_end_only_their_own_log(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    # A daemon that answers nothing that could be expected.
    output = FollowedOutput("c", None, done.set)  # type: ignore[arg-type]
    output.follow()
    assert done.wait(PATIENCE_SECONDS)
    page = output.page("", 1000, has_exited=True)
    assert [chunk.data for chunk in page.chunks] == [b"The rest of the output was not understood.\n"]
    assert output.page(page.cursor, 1000, has_exited=True).complete
    assert "The output of c was not understood" in caplog.text


@dataclass(frozen=True)
class Message:
    """A piece of a line: all pieces of a line have the timestamp of the first, as the daemon stamps them."""

    nanoseconds: int
    stream: str
    data: bytes

    def frame(self) -> bytes:
        seconds, nanoseconds = divmod(self.nanoseconds, 10**9)
        payload = f"2026-01-02T03:04:{seconds:02}.{nanoseconds:09}Z ".encode() + self.data
        return bytes([_NUMBERS[self.stream], 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@st.composite
def message_lists(draw: st.DrawFn) -> list[Message]:
    """Draw what two streams print, line by line and piece by piece, as time goes on."""
    now, messages = 0, []
    lines: dict[str, int] = {}
    for stream in draw(st.lists(st.sampled_from(["stdout", "stderr"]), max_size=12)):
        now += draw(st.sampled_from([0, 1, 10**9, 4 * 10**9]))
        data = draw(
            st.binary(min_size=1, max_size=12) | st.sampled_from([b"line\n", b" 2026-01-02T03:04:05.000000001Z "])
        )
        messages.append(Message(lines.get(stream, now), stream, data))
        if data.endswith(b"\n"):
            lines.pop(stream, None)
        else:
            lines.setdefault(stream, now)
    return messages


MESSAGES = message_lists()
_START = 1767323040


def log(messages: list[Message], since: str | None = None) -> bytes:
    """Return what the daemon sends of messages from a time on."""
    first = (int(since or _START) - _START) * 10**9
    return b"".join(message.frame() for message in messages if message.nanoseconds >= first)


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def streams(messages: list[Message]) -> list[tuple[str, int]]:
    return [(message.stream, byte) for message in messages for byte in message.data]


@given(MESSAGES, st.integers(1, 60))
def test_output_is_the_same_however_its_frames_are_cut(messages: list[Message], size: int) -> None:
    decoder = FrameDecoder()
    chunks = [chunk for piece in in_pieces(log(messages), size) for chunk in decoder.feed(piece)]
    assert [(chunk.stream, byte) for chunk in chunks for byte in chunk.data] == streams(messages)


@given(MESSAGES, st.lists(st.integers(0, 400), max_size=4))
def test_a_log_read_again_after_a_cut_loses_and_repeats_nothing(messages: list[Message], cuts: list[int]) -> None:
    received: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    positions: Positions = {}
    for cut in [*cuts, None]:
        decoder = FrameDecoder(positions)
        answer = log(messages, since(positions))[:cut]
        for piece in in_pieces(answer, 7):
            for chunk in decoder.feed(piece):
                received[chunk.stream] += chunk.data
        positions = decoder.positions
    for stream, found in received.items():
        assert found == b"".join(message.data for message in messages if message.stream == stream)


def test_a_frame_that_was_cut_off_before_its_output_is_read_again_even_if_its_line_began_long_ago() -> None:
    messages = [Message(0, "stderr", b"be"), Message(4 * 10**9, "stdout", b"other"), Message(0, "stderr", b"gun")]
    first = FrameDecoder()
    first.feed(log(messages)[: -len(b"gun")])
    second = FrameDecoder(first.positions)
    assert b"".join(chunk.data for chunk in second.feed(log(messages, since(first.positions)))) == b"gun"


def test_a_timestamp_is_read_in_any_time_zone() -> None:
    for text in (b"2026-01-02T03:04:05.000000007Z", b"2026-01-02T05:04:05.000000007+02:00"):
        assert since({"stdout": Position(text, 1, 0, in_line=True)}) == "1767323043"


def test_the_newline_that_the_daemon_loses_after_a_long_line_is_put_back() -> None:
    first, second = 1, 2
    messages = [
        Message(first, "stdout", b"piece "),
        Message(first, "stderr", b"other"),
        Message(first, "stdout", b"last piece"),
        Message(second, "stdout", b"line\n"),
        # A line that ends with its frame is followed by a frame of nothing.
        Message(second, "stderr", b"more"),
        Message(second, "stderr", b""),
    ]
    for cut in range(len(log(messages))):
        received: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        decoder = FrameDecoder()
        for answer in (log(messages)[:cut], log(messages)):
            for chunk in decoder.feed(answer):
                received[chunk.stream] += chunk.data
            decoder = FrameDecoder(decoder.positions)
        assert received == {"stdout": b"piece last piece\nline\n", "stderr": b"other\nmore\n"}


@given(frames=st.lists(st.binary(max_size=20), max_size=6), more=st.binary(max_size=20), data=st.data())
def test_the_last_frame_of_a_growing_log_is_held_back_until_it_is_read_unchanged(
    frames: list[bytes], more: bytes, data: st.DataObject
) -> None:
    """However the answer is cut: what came of the last line may be a part of it."""
    whole = [bytes([1, 0, 0, 0]) + len(frame).to_bytes(4, "big") + frame for frame in frames]

    def read(last: LastFrame, log: bytes) -> bytes:
        size = data.draw(st.integers(1, 30))
        return b"".join(last.without_it(log[at : at + size] for at in range(0, len(log), size)))

    last, grown = LastFrame(), bytes([1, 0, 0, 0]) + len(more).to_bytes(4, "big") + more
    assert read(last, b"".join(whole)) == b"".join(whole[:-1])
    assert read(last, b"".join(whole) + grown) == b"".join(whole)
    assert read(last, b"".join(whole) + grown) == b"".join(whole) + grown


def test_an_engine_that_drops_no_newline_gets_none_added() -> None:
    """Each piece of a long line has a timestamp of its own there."""
    pieces = [Message(0, "stdout", b"a" * 8), Message(10**9, "stdout", b"b" * 8), Message(2 * 10**9, "stdout", b"c\n")]
    log = b"".join(piece.frame() for piece in pieces)
    told = b"".join(chunk.data for chunk in FrameDecoder(drops_newlines=False).feed(log))
    assert told == b"aaaaaaaabbbbbbbbc\n"

"""Secrets' values are masked wherever the output is cut into chunks, and nothing else is changed."""

from __future__ import annotations

import random

import pytest

from container_manager.executors.base import LaunchSpec, LogChunk, Stream
from container_manager.jobs.spec import JobSpec
from container_manager.worker.capped_output import CappedOutput
from container_manager.worker.launch_spec import secret_values
from container_manager.worker.masking import Mask

pytestmark = pytest.mark.without_database


def masked(values: list[bytes], *pieces: bytes) -> bytes:
    mask = Mask(values)
    chunks = [chunk for piece in pieces for chunk in mask.feed([LogChunk(stream="stdout", data=piece)])]
    return b"".join(chunk.data for chunk in [*chunks, *mask.flush()])


@pytest.mark.parametrize(
    ("values", "output", "expected"),
    [
        ([b"hunter2"], b"the password is hunter2!", b"the password is ***!"),
        ([b"hunter2"], b"hunter2hunter2", b"***"),
        ([b"hunter2", b"letmein"], b"hunter2letmein hunter2", b"*** ***"),
        ([b"abcd", b"abcdef"], b"abcdef abcde abcd", b"*** ***e ***"),
        ([b"abcd", b"xabcdy"], b"xabcd xabcdy", b"x*** ***"),
        ([b"abab"], b"xababab", b"x***"),
        ([b"aaaa"], b"aaaaaaab", b"***b"),
        ([b"abcd", b"cdef"], b"abcdef", b"***"),
        ([b"one line\nanother line\n"], b"> one line\n> another line\n", b"> ***\n> ***\n"),
        ([b"pin", b""], b"pin", b"pin"),
        ([b"\xff\xfe\x00\x01"], b"a\xff\xfe\x00\x01b", b"a***b"),
        ([b"hunter2"], b"hunter hunte2 r2", b"hunter hunte2 r2"),
    ],
)
def test_secret_values_are_masked_wherever_the_output_is_cut(
    values: list[bytes], output: bytes, expected: bytes
) -> None:
    assert masked(values, output) == expected
    for cut in range(1, len(output)):
        assert masked(values, output[:cut], output[cut:]) == expected
    assert masked(values, *(output[i : i + 1] for i in range(len(output)))) == expected


def test_random_outputs_in_random_pieces_are_masked_as_if_they_were_whole() -> None:
    chance = random.Random(5)  # noqa: S311  # the same cases each time
    for _ in range(2000):
        values = [bytes(chance.choices(b"ab", k=chance.randint(4, 7))) for _ in range(chance.randint(1, 3))]
        output = bytes(chance.choices(b"ab", k=chance.randint(0, 40)))
        cuts = sorted(chance.choices(range(len(output) + 1), k=chance.randint(0, 6)))
        pieces = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]
        flags = [any(output[i : i + len(v)] == v for v in values for i in range(max(0, at - len(v) + 1), at + 1))
                 for at in range(len(output))]  # fmt: skip
        expected = b"".join(
            (b"" if at and flags[at - 1] else b"***") if flag else output[at : at + 1] for at, flag in enumerate(flags)
        )
        assert masked(values, *pieces) == expected, (values, pieces)


def test_each_output_stream_is_masked_separately() -> None:
    mask = Mask([b"hunter2"])
    pieces: list[tuple[Stream, bytes]] = [
        ("stdout", b"hun"),
        ("stderr", b"ter2"),
        ("stdout", b"ter2"),
        ("stderr", b"!"),
    ]
    found = [mask.feed([LogChunk(stream=stream, data=data)]) for stream, data in pieces]
    assert [[(chunk.stream, chunk.data) for chunk in chunks] for chunks in found] == [
        [], [("stderr", b"ter2")], [("stdout", b"***")], [("stderr", b"!")],
    ]  # fmt: skip


def test_only_a_possible_beginning_of_a_secret_value_is_held_back_until_the_next_chunk() -> None:
    mask = Mask([b"hunter2"])
    (chunk,) = mask.feed([LogChunk(stream="stdout", data=b"a prompt> ")])
    assert chunk.data == b"a prompt> "
    (chunk,) = mask.feed([LogChunk(stream="stdout", data=b"we hunt")])
    assert chunk.data == b"we "
    assert [chunk.data for chunk in mask.flush()] == [b"hunt"]


def test_secret_values_are_masked_in_a_whole_message() -> None:
    mask = Mask([b"hunter2", "gehëim".encode()])
    assert mask.text("exec hunter2 gehëim: \udcff ünknown") == "exec *** ***: \udcff ünknown"


def test_the_masked_values_of_a_launch_are_those_of_its_secrets_in_variables_and_files() -> None:
    spec = LaunchSpec(
        key="k",
        argv=("true",),
        job=JobSpec(
            environment={"PLAIN": "told"}, secrets={"TOKEN": "env:CM_SECRET_TOKEN"}, secret_files={"key": "file:key"}
        ),
        environment={"PLAIN": "told", "TOKEN": "never told"},
        secret_files={"key": b"nor this"},
    )
    assert secret_values(spec) == [b"never told", b"nor this"]
    assert "never told" not in repr(spec)
    assert "nor this" not in repr(spec)


def test_masked_output_is_capped_as_it_is_stored() -> None:
    output, mask = CappedOutput(1000), Mask([b"hunter2"])
    for _ in range(100):
        output.feed(mask.feed([LogChunk(stream="stdout", data=b"hunter2 ")]))
    output.feed(mask.flush())
    entries, _ = output.take(tail=True)
    assert b"".join(entry.data for entry in entries) == b"*** " * 100

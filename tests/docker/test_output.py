"""The output of containers is complete and in order, and little of it is held in memory."""

from __future__ import annotations

import threading

import psutil
import pytest

from container_manager.executors.base import Executor
from container_manager.testing.conformance import ended, output, text

from ..polling import PATIENCE_SECONDS
from .docker_harness import DockerHarness

_MEGABYTE = 1 << 20


def test_64_megabytes_of_container_output_arrive_complete_and_stay_out_of_memory(
    harness: DockerHarness, executor: Executor
) -> None:
    process, half = psutil.Process(), 32 * _MEGABYTE
    script = f"head -c {half} /dev/zero & head -c {half} /dev/zero | tr '\\0' e >&2; wait"
    handle = executor.submit(harness.spec(script))
    before = most = process.memory_info().rss
    received, cursor = {"stdout": 0, "stderr": 0}, ""
    while True:
        page = executor.logs(handle, cursor, _MEGABYTE)
        for chunk in page.chunks:
            received[chunk.stream] += len(chunk.data)
            assert not chunk.data.strip(b"\0" if chunk.stream == "stdout" else b"e")
        cursor, most = page.cursor, max(most, process.memory_info().rss)
        if page.complete:
            break
        if not page.chunks:
            executor.watch(0.05)
    assert received == {"stdout": half, "stderr": half}
    assert most - before < 30 * _MEGABYTE


def test_unread_output_waits_in_the_daemon(harness: DockerHarness, executor: Executor) -> None:
    spec = harness.spec(f"head -c {16 * _MEGABYTE} /dev/zero")
    handle = executor.submit(spec)
    # The container does not wait for its reader.
    assert ended(executor, spec.key).code == 0
    assert len(text(output(executor, handle))) == 16 * _MEGABYTE


def test_lines_of_both_streams_keep_their_order_within_each(harness: DockerHarness, executor: Executor) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    handle = executor.submit(harness.spec(script))
    chunks = output(executor, handle)
    for stream, word in (("stdout", b"out"), ("stderr", b"err")):
        assert text(chunks, stream) == b"".join(b"%s %d\n" % (word, number) for number in range(2000))


def test_output_comes_while_the_command_runs(harness: DockerHarness, executor: Executor) -> None:
    handle = executor.submit(harness.spec("echo first; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done; echo second"))
    found, cursor = b"", ""
    while found != b"first\n":
        page = executor.logs(handle, cursor, 1000)
        found += text(list(page.chunks))
        cursor = page.cursor
        executor.watch(0.05)
    (harness.effects() / "go").touch()
    while not page.complete:
        page = executor.logs(handle, cursor, 1000)
        found += text(list(page.chunks))
        cursor = page.cursor
        executor.watch(0.05)
    assert found == b"first\nsecond\n"


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_another_executor_reads_all_output_from_the_start(harness: DockerHarness) -> None:
    first = harness.executor()
    spec = harness.spec("echo early; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done; echo late")
    handle = first.submit(spec)
    while not first.logs(handle, "", 1000).chunks:
        first.watch(0.05)
    first.close()
    second = harness.executor()
    (harness.effects() / "go").touch()
    assert text(output(second, handle)) == b"early\nlate\n"
    third = harness.executor()
    # After its end, too.
    assert text(output(third, handle)) == b"early\nlate\n"
    assert ended(third, spec.key).code == 0
    second.close()
    third.close()


def test_an_exited_container_is_not_followed(harness: DockerHarness) -> None:
    others = set(threading.enumerate())
    executor = harness.executor()
    for _ in range(3):
        spec = harness.spec("echo done")
        handle = executor.submit(spec)
        output(executor, handle)
        ended(executor, spec.key)
        executor.remove(handle)
    executor.close()
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("container-manager"):
            thread.join(timeout=PATIENCE_SECONDS)
            assert not thread.is_alive(), thread.name


def test_the_newline_after_a_long_line_is_kept(harness: DockerHarness, executor: Executor) -> None:
    script = "for n in 16383 16384 16385 40000; do head -c $n /dev/zero | tr '\\0' x; echo; done; echo; printf end"
    handle = executor.submit(harness.spec(script))
    expected = b"".join(b"x" * size + b"\n" for size in (16383, 16384, 16385, 40000)) + b"\nend"
    assert text(output(executor, handle)) == expected


def test_output_requested_before_its_container_exists_is_not_given_up(harness: DockerHarness) -> None:
    """An attempt may wait long for its launch, and what is pulled for it is to be seen meanwhile."""
    executor = harness.executor()
    spec = harness.spec("echo here")
    executor.observe()
    for _ in range(20):
        assert not executor.logs(spec.key, "", 1000).complete
        executor.watch(0.05)
    executor.submit(spec)
    assert text(output(executor, spec.key)) == b"here\n"
    executor.close()

"""Output under its cap: head and tail, live, nothing twice and nothing out of order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from container_manager import queue, store
from container_manager.cli.logs_command import follow
from container_manager.executors.base import LogChunk, Stream
from container_manager.executors.output_buffer import OutputBuffer
from container_manager.models import ContainerJob, JobLog
from container_manager.worker.capped_output import CappedOutput

from .workers import eventually, worker

_STREAMS: list[Stream] = ["stdout", "stderr"]
_LIMIT = 200
# A tail may lack this much: the rest of a row that was dropped.
_ROW = _LIMIT // 2 // 16


class Stored:
    """The rows that the database has of one attempt, by sequence number, each stored once."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str, bytes]] = {}

    def apply(self, output: CappedOutput, *, tail: bool, last: bool = False) -> None:
        entries, gone = output.take(tail=tail, last=last)
        for _ in range(2):  # a change is sent again if its commit was uncertain
            if gone is not None:
                self.rows = {n: row for n, row in self.rows.items() if not gone[0] <= n < gone[1]}
            for entry in entries:
                self.rows.setdefault(entry.sequence, (entry.stream, entry.data))
        assert sum(len(data) for stream, data in self.rows.values() if stream != "system") <= _LIMIT

    def in_order(self) -> list[tuple[str, bytes]]:
        return [self.rows[number] for number in sorted(self.rows)]


@given(
    chunks=st.lists(st.tuples(st.sampled_from(_STREAMS), st.integers(1, 90), st.sampled_from(["", "head", "all"]))),
    inherited=st.booleans(),
)
@pytest.mark.shows("explanation/worker.md#the-database-is-away")
def test_the_head_and_the_tail_of_output_are_stored(chunks: list[tuple[Stream, int, str]], inherited: bool) -> None:
    output, stored = CappedOutput(_LIMIT, replaces=inherited), Stored()
    if inherited and chunks:
        stored.rows = dict.fromkeys(range(3), ("stdout", b"another worker's"))
    written = bytearray()
    streams = bytearray()
    for number, (stream, size, taken) in enumerate(chunks):
        data = bytes([number % 256]) * size
        written += data
        streams += stream[3].encode() * size
        output.feed([LogChunk(stream=stream, data=data)])
        if taken:
            stored.apply(output, tail=taken == "all")
    stored.apply(output, tail=True)
    rows = stored.in_order()
    kept = b"".join(data for stream, data in rows if stream != "system")
    kept_streams = b"".join(stream[3].encode() * len(data) for stream, data in rows if stream != "system")
    dropped = len(written) - len(kept)
    notes = [place for place, (stream, _) in enumerate(rows) if stream == "system"]
    if len(written) <= _LIMIT:
        assert (bytes(written), bytes(streams), notes) == (kept, kept_streams, [])
        return
    head, tail = _LIMIT // 2, len(kept) - _LIMIT // 2
    assert _LIMIT // 2 - _ROW < tail <= _LIMIT // 2
    assert kept == bytes(written[:head] + written[len(written) - tail :])
    assert kept_streams == bytes(streams[:head] + streams[len(streams) - tail :])
    (note,) = notes
    assert rows[note] == ("system", f"[{dropped} bytes of output dropped here: the log is limited]\n".encode())
    assert sum(len(data) for _, data in rows[:note]) == head


def stored_rows(limit: int, *chunks: tuple[Stream, bytes], flush: bool = False) -> list[tuple[str, bytes]]:
    """Return the rows that are left of an output; ``flush``: the database gets each chunk at once."""
    output, rows = CappedOutput(limit), dict[int, tuple[str, bytes]]()
    for number, (stream, data) in enumerate(chunks, start=1):
        output.feed([LogChunk(stream=stream, data=data)])
        if flush or number == len(chunks):
            entries, gone = output.take(tail=True)
            if gone is not None:
                rows = {number: row for number, row in rows.items() if not gone[0] <= number < gone[1]}
            rows.update({entry.sequence: (entry.stream, entry.data) for entry in entries})
    return [rows[number] for number in sorted(rows)]


@pytest.mark.without_database
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.shows("howto/docker.md#let-no-job-use-up-what-others-need")
def test_output_in_many_small_chunks_is_limited_in_rows_too(flush: bool) -> None:
    """A row costs the database more than the byte or two in it."""
    lines: list[tuple[Stream, bytes]] = [(_STREAMS[number % 2], b"%d\n" % number) for number in range(6000)]
    rows = stored_rows(256 * 1024, *lines, flush=flush)
    assert len(rows) == 2048 + 1
    assert rows[:1024] == lines[:1024]
    assert rows[1025:] == lines[-1024:]
    dropped = sum(len(data) for _, data in lines[1024:-1024])
    assert rows[1024] == ("system", b"[%d bytes of output dropped here: the log is limited]\n" % dropped)


def test_a_small_log_limit_still_allows_a_thousand_rows() -> None:
    lines: list[tuple[Stream, bytes]] = [(_STREAMS[number % 2], b".") for number in range(1000)]
    assert stored_rows(2000, *lines) == lines


@pytest.mark.without_database
def test_small_chunks_fill_the_buffer_of_output_that_waits_for_the_worker() -> None:
    buffer = OutputBuffer()
    buffer.add([LogChunk(stream="stdout", data=b".")] * 10_000)
    assert buffer.is_full
    taken, cursor = buffer.take("", 1024 * 1024)
    assert 0 < len(taken) < 10_000
    buffer.take(cursor, 1)
    assert not buffer.is_full


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_notes_of_an_adopting_worker_do_not_displace_stored_output() -> None:
    """Its engine may not have the output any more."""
    before = [("stdout", b"one"), ("stderr", b"two")]
    for adopter in ("first", "second"):
        output, stored = CappedOutput(_LIMIT, replaces=True, was_launched=True), Stored()
        stored.rows = dict(enumerate(before))
        output.feed([LogChunk(stream="system", data=f"{adopter}: gone".encode())])
        stored.apply(output, tail=True)
        assert stored.in_order() == before
        stored.apply(output, tail=True, last=True)
        assert stored.in_order() == [*before, ("system", f"{adopter}: gone".encode())]


def test_notes_of_an_adopting_worker_keep_their_place_in_the_output_that_replaces_the_stored_output() -> None:
    output, stored = CappedOutput(_LIMIT, replaces=True, was_launched=True), Stored()
    stored.rows = {0: ("stdout", b"on"), 1: ("stdout", b"e")}
    output.feed([LogChunk(stream="system", data=b"again")])
    stored.apply(output, tail=True)
    output.feed([LogChunk(stream="stdout", data=b"one")])
    stored.apply(output, tail=True, last=True)
    assert stored.in_order() == [("system", b"again"), ("stdout", b"one")]


def claimed() -> store.ClaimedJob:
    queue.enqueue(command="true")
    (job,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
    return job


def keep(job: store.ClaimedJob, *rows: tuple[int, str, bytes], gone: tuple[int, int] | None = None) -> None:
    entries = [store.LogEntry(sequence=number, stream=stream, data=data) for number, stream, data in rows]
    change = store.LogChange(job_id=job.id, attempt=job.attempt, entries=entries, gone=gone)
    store.store_logs([change], worker="w", using="default")


@pytest.mark.django_db(transaction=True)
class TestFollowing:
    def test_a_slow_reader_is_told_that_output_was_dropped(self) -> None:
        job = claimed()
        keep(job, (0, "stdout", b"head "), (1, "stdout", b"one "), (2, "stdout", b"two "))
        reading = follow(ContainerJob.objects.get(pk=job.id))
        assert [next(reading) for _ in range(3)][-1] == ("stdout", b"two ")
        keep(job, (1, "system", b"[8 bytes dropped]\n"), (5, "stdout", b"five"), gone=(1, 5))
        stream, said = next(reading)
        assert (stream, b"some was dropped here" in said) == ("system", True)
        assert next(reading) == ("stdout", b"five")

    def test_a_late_reader_reads_the_workers_note_of_dropped_output(self) -> None:
        job = claimed()
        keep(job, (0, "stdout", b"head "), (1, "stdout", b"one "), (2, "stdout", b"two "))
        keep(job, (1, "system", b"[8 bytes dropped]\n"), (5, "stdout", b"five"), gone=(1, 5))
        reading = follow(ContainerJob.objects.get(pk=job.id))
        assert [next(reading) for _ in range(3)] == [
            ("stdout", b"head "),
            ("system", b"[8 bytes dropped]\n"),
            ("stdout", b"five"),
        ]

    @pytest.mark.usual_statements
    def test_the_tail_of_long_output_is_seen_while_the_job_runs(self, tmp_path: Path) -> None:
        go, script = tmp_path / "go", tmp_path / "long.sh"
        os.mkfifo(go)
        script.write_text(
            f"head -c 3000000 /dev/zero | tr '\\0' x\necho; echo so far\nread word < {go}\necho at last\n"
        )
        with worker("--slots", "1", log=tmp_path / "log"):
            job = queue.enqueue(command=f"sh {script}")
            command = [sys.executable, "-m", "django", "container", "logs", "-f", str(job.pk)]
            environment = {
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
                "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
                "CM_WORKER_LEASE_SECONDS": "30",
            }
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as reader, go.open("w") as word:
                assert reader.stdout is not None
                assert any(b"so far" in line for line in reader.stdout)
                job.refresh_from_db()
                assert job.status == "running"
                word.write("\n")
                word.flush()
                assert b"at last\n" in reader.stdout.read()
            assert reader.returncode == 0
            eventually(lambda: ContainerJob.objects.filter(pk=job.pk, status="completed").exists())
        rows = JobLog.objects.filter(attempt__job=job).values_list("stream", "data")
        assert [bytes(data)[-8:] for stream, data in rows if stream == "stdout"][-1] == b"at last\n"

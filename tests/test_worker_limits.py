"""Extremes: 64 MB of output, and cancels at the moment in which a job ends."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from container_manager import queue
from container_manager.conf import AppSettings
from container_manager.models import ContainerJob, JobAttempt, JobLog
from container_manager.statemachine import TransitionError
from container_manager.store.consistency import examine

from .jobs import journal_of
from .workers import eventually, worker

pytestmark = pytest.mark.django_db(transaction=True)
_MEBIBYTE = 1024 * 1024
_OUTPUT_BYTES = 64 * _MEBIBYTE
_RACES = 500


def has_ended(job: ContainerJob) -> bool:
    return ContainerJob.objects.filter(pk=job.pk).exclude(status__in=["queued", "running"]).exists()


def resident_bytes(process: psutil.Process) -> int:
    """Return the resident memory of a worker and its warden, without that of jobs."""
    total = 0
    for each in (process, *process.children()):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@pytest.mark.slow
def test_64_megabytes_of_process_output_cost_a_worker_no_memory(tmp_path: Path) -> None:
    script, half = tmp_path / "flood.sh", _OUTPUT_BYTES // 2
    script.write_text(f"head -c {half} /dev/zero >&2 &\nhead -c {half} /dev/zero\nwait\necho end\n")
    with worker("--slots", "1", log=tmp_path / "log") as process:
        first = queue.enqueue(command="echo first")
        eventually(lambda: has_ended(first))
        observed = psutil.Process(process.pid)
        before = most = resident_bytes(observed)
        job = queue.enqueue(command=f"sh {script}")
        while not has_ended(job):
            most = max(most, resident_bytes(observed))
            time.sleep(0.01)  # samples, taken from outside
    assert most - before < 30 * _MEBIBYTE
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("completed", 1)
    rows = JobLog.objects.filter(attempt__job=job).order_by("sequence").values_list("stream", "data")
    pieces = [(stream, bytes(data)) for stream, data in rows]
    limit = AppSettings().log_limit_bytes
    kept = sum(len(data) for stream, data in pieces if stream != "system")
    assert 0.9 * limit < kept <= limit
    (note,) = (data.decode() for stream, data in pieces if stream == "system")
    assert note == f"[{_OUTPUT_BYTES + len('end.') - kept} bytes of output dropped here: the log is limited]\n"
    # Per stream: between two pipes the order of reading is not that of writing.
    assert [data for stream, data in pieces if stream == "stdout"][-1].endswith(b"end\n")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("races", [20, pytest.param(_RACES, marks=pytest.mark.slow)])
@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
def test_either_a_simultaneous_cancel_or_exit_wins_and_no_process_is_left(races: int, tmp_path: Path) -> None:
    """Each command waits for a word to exit, which it gets at the moment in which its job is cancelled."""
    pids, outcomes, took = tmp_path / "pids", [], 0.0
    with worker("--slots", "4", log=tmp_path / "log"):
        for number in range(races):
            go = tmp_path / f"go-{number}"
            os.mkfifo(go)
            job = queue.enqueue(command=f"sh -c 'echo $$ >> {pids}; read word < {go}'", grace_seconds=0)
            # A command that is cancelled first may be gone before it gets the word.
            with suppress(BrokenPipeError), go.open("w") as word:  # returns once the command reads
                job.refresh_from_db()
                word.write("\n")
                # One in four is cancelled just before its command ends, and one in four once its end is stored, so that
                # both happen on any machine; the others at any time between the two, as long as that takes here and now.
                if number % 4:
                    word.flush()
                if number % 4 == 1:
                    began = time.monotonic()
                    eventually(lambda job=job: has_ended(job))
                    took = time.monotonic() - began
                elif number % 4:
                    time.sleep(1.5 * took * (number % 20) / 20)
                try:
                    job.mark_as_cancelled(actor="alice")
                except TransitionError:
                    outcomes.append("completed")
                else:
                    outcomes.append("cancelled")
            eventually(lambda job=job: not JobAttempt.objects.filter(job=job, finished_at=None).exists())
            job.refresh_from_db()
            assert (job.status, journal_of(job)) == (outcomes[-1], [("queued", "running"), ("running", outcomes[-1])])
            # Now: after many races its pid may be another's.
            assert not Path(f"/proc/{pids.read_text().split()[-1]}").exists()
    assert set(outcomes) == {"completed", "cancelled"}, "all races went one way"
    assert len(pids.read_text().split()) == races
    assert examine().problems == []

"""SIGTERM ends a worker cleanly at any moment: while jobs run, and while it is starting."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from container_manager import queue
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker
from container_manager.store.consistency import examine

from .polling import PATIENCE_SECONDS
from .workers import eventually, start_worker, worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usual_statements]


def test_after_sigterm_a_worker_lets_running_jobs_end_and_claims_no_more(tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    os.mkfifo(go)
    command = f"sh -c 'echo begun; echo >> {started}; read word < {go}; echo ended'"
    jobs = queue.enqueue_many(ContainerJob(command=command) for _ in range(8))
    with worker("--slots", "4", log=tmp_path / "log") as process:
        eventually(lambda: started.exists() and len(started.read_text()) == 4)
        process.send_signal(signal.SIGTERM)
        with go.open("w") as word:
            word.write("\n" * 8)
            word.flush()
            assert process.wait(timeout=PATIENCE_SECONDS) == 0
    statuses = ContainerJob.objects.order_by("pk").values_list("status", "attempt")
    assert list(statuses) == [("completed", 1)] * 4 + [("queued", 0)] * 4
    for job in jobs[:4]:
        assert b"".join(bytes(row.data) for row in JobLog.objects.filter(attempt__job=job)) == b"begun\nended\n"
    assert not Worker.objects.exists()
    with worker("--drain", log=tmp_path / "log") as process, go.open("w") as word:
        word.write("\n" * 8)
        word.flush()
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert ContainerJob.objects.filter(status="completed", attempt=1).count() == 8
    assert examine().problems == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=[pytest.mark.without_database, pytest.mark.slow]),
        pytest.param(signal.SIGHUP, marks=[pytest.mark.without_database, pytest.mark.slow]),
    ],
    ids=lambda number: number.name,
)
def test_a_signal_to_worker_warden_and_keepers_at_once_lets_running_jobs_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    os.mkfifo(go)
    job = queue.enqueue(command=f"sh -c 'echo > {started}; read word < {go}'")
    # Open for reading too: it is written to whether the job is there or not.
    with go.open("r+b", buffering=0) as word, sighup(signal.SIG_DFL), worker(log=tmp_path / "log") as process:
        eventually(started.exists)
        [warden] = psutil.Process(process.pid).children()
        for receiver in (process.pid, warden.pid, *(keeper.pid for keeper in warden.children())):
            os.kill(receiver, number)
        word.write(b"\n")
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("completed", 1)


@contextmanager
def sighup(disposition: signal.Handlers) -> Iterator[None]:
    """Let processes inherit what SIGHUP does to them, however these tests were started."""
    before = signal.signal(signal.SIGHUP, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.without_database
def test_sighup_ends_a_worker_as_sigterm_does(tmp_path: Path) -> None:
    started = tmp_path / "started"
    job = queue.enqueue(command=f"sh -c 'echo > {started}; sleep 1'")
    with sighup(signal.SIG_DFL), worker("--slots", "1", log=tmp_path / "log") as process:
        eventually(started.exists)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("completed", 1)
    assert not Worker.objects.exists()


@pytest.mark.without_database
def test_a_worker_under_nohup_survives_sighup(tmp_path: Path) -> None:
    with sighup(signal.SIG_IGN), worker("--slots", "1", log=tmp_path / "log") as process:
        process.send_signal(signal.SIGHUP)
        job = queue.enqueue(command="true")
        eventually(lambda: ContainerJob.objects.filter(pk=job.pk, status="completed").exists())
        assert process.poll() is None


def test_a_second_sigterm_ends_running_jobs_at_once_as_lost(tmp_path: Path) -> None:
    job = queue.enqueue(command="sleep 600", grace_seconds=0, max_retries=1)
    with worker("--slots", "1", log=tmp_path / "log") as process:
        eventually(JobAttempt.objects.exists)
        process.send_signal(signal.SIGTERM)
        # Two signals at once count as one.
        eventually(lambda: "was told to stop, with jobs=1 at work" in (tmp_path / "log").read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    job.refresh_from_db()
    assert (job.status, job.failure_reason, job.attempts.get().reason) == ("retrying", "lost", "lost")
    assert not Worker.objects.exists()
    assert examine().problems == []


@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_sigterm_while_a_worker_starts_leaves_nothing_behind(rounds: int, tmp_path: Path) -> None:
    """From before its signal handlers are set, when it just ends, to after it is registered."""
    jobs = queue.enqueue_many(ContainerJob(command="true") for _ in range(rounds))
    codes = set()
    began = time.monotonic()
    with worker("--slots", "1", "--queue", "empty", log=tmp_path / "log"):
        # How long a start takes on this machine now, and a little more.
        window = 1.5 * (time.monotonic() - began)
    Worker.objects.all().delete()
    for number in range(rounds):
        process = start_worker("--slots", "1", log=tmp_path / "log", lease_seconds=60.0)
        try:
            if number < rounds - 1:
                time.sleep(window * number / rounds)  # spreads the signal over the start
            else:
                eventually(Worker.objects.exists)
            process.send_signal(signal.SIGTERM)
            codes.add(process.wait(timeout=PATIENCE_SECONDS))
        finally:
            process.kill()
            process.wait()
        assert not Worker.objects.exists()
        assert not JobAttempt.objects.filter(finished_at=None).exists()
    # Which of the others come before the handlers are set, the machine decides.
    assert 0 in codes <= {0, -signal.SIGTERM}
    assert set(ContainerJob.objects.values_list("status", flat=True)) <= {"queued", "completed"}
    assert len(jobs) == rounds
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert examine().problems == []

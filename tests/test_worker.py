"""The worker runs jobs to their end, on every database."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings, RetrySettings
from container_manager.executors.base import Observations
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.database import Database
from container_manager.worker.outcomes import retry_delay

from .jobs import journal_of
from .polling import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.django_db(transaction=True)
SETTINGS = AppSettings(poll_seconds=0.1, retry=RetrySettings(initial_seconds=0.05, jitter=0.0))


def queued(command: str, **fields: Any) -> ContainerJob:
    job = ContainerJob.objects.create_job(command=command, **fields)
    job.mark_as_queued()
    return job


def drain(*, settings: AppSettings = SETTINGS, **options: Any) -> WorkerLoop:
    executors = {"default": ProcessExecutor()}
    loop = WorkerLoop(settings=settings, executors=executors, options=WorkerOptions(drain=True, **options))
    loop.run()
    return loop


def output_of(job: ContainerJob, stream: str = "stdout") -> bytes:
    return b"".join(bytes(row.data) for row in JobLog.objects.filter(attempt__job=job, stream=stream))


@pytest.fixture
def background() -> Iterator[WorkerLoop]:
    """Run a worker in a thread; stop it at the end."""
    loop = WorkerLoop(settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions())

    def run() -> None:
        try:
            loop.run()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield loop
    loop.stop()
    loop.stop()
    thread.join(timeout=PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_a_worker_leaves_its_callers_connection_as_it_found_it() -> None:
    before, seen = connection.settings_dict, list[Any]()
    wrappers = [*connection.execute_wrappers]

    def note(execute: Callable[..., Any], *arguments: Any) -> Any:
        seen.append(arguments)
        return execute(*arguments)

    with connection.execute_wrapper(note):
        queued("true")
        drain()
        assert connection.execute_wrappers == [*wrappers, note]
    assert connection.execute_wrappers == wrappers
    assert connection.settings_dict is before
    assert seen


def test_a_command_that_succeeds_completes_its_job() -> None:
    job = queued("sh -c 'echo out; echo err >&2'")
    drain()
    job.refresh_from_db()
    assert (job.status, job.exit_code, job.worker) == ("completed", 0, "")
    assert job.launched_at is not None
    assert job.completed_at >= job.launched_at
    assert journal_of(job) == [("pending", "queued"), ("queued", "running"), ("running", "completed")]
    attempt = job.attempts.get()
    assert (attempt.number, attempt.exit_code, attempt.reason) == (1, 0, "")
    assert attempt.finished_at is not None
    assert attempt.peak_memory_bytes > 0
    assert (output_of(job), output_of(job, "stderr")) == (b"out\n", b"err\n")
    assert Worker.objects.count() == 0


def test_a_failing_command_is_retried_until_it_succeeds(tmp_path: Path) -> None:
    job = queued(f"sh -c 'test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 3; }}'", max_retries=2)
    while job.status not in ("completed", "failed"):
        drain()
        job.refresh_from_db()
    assert (job.status, job.retry_count, job.attempt) == ("completed", 1, 2)
    assert [(a.number, a.exit_code, a.reason) for a in job.attempts.order_by("number")] == [(1, 3, "error"), (2, 0, "")]
    assert ("failed", "retrying") in journal_of(job)


@pytest.mark.parametrize(
    ("command", "reason", "text"),
    [
        ("sh -c 'exit 7'", "error", "Exit code 7"),
        ("sh -c 'kill -9 $$'", "signal", "SIGKILL"),
        ("/no/such/program", "start", "No such file"),
        ("'unbalanced", "start", "quoting"),
        ("", "start", "empty"),
        ("/etc/passwd", "start", "Permission denied"),
    ],
)
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_failed_command_has_its_reason_and_message(command: str, reason: str, text: str) -> None:
    job = ContainerJob.objects.create(command=command, max_retries=0)
    job.mark_as_queued()
    drain()
    job.refresh_from_db()
    assert (job.status, job.failure_reason) == ("failed", reason)
    assert text in job.last_error
    assert job.attempts.get().message == job.last_error


@pytest.mark.parametrize("jitter", [0.0, 0.25])
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_the_delay_of_a_retry_grows_exponentially_up_to_a_cap_with_jitter(jitter: float) -> None:
    """INITIAL_SECONDS * FACTOR ** (n - 1), at most MAX_SECONDS, and up to JITTER of that more."""
    retry = RetrySettings(initial_seconds=2.0, factor=3.0, max_seconds=100.0, jitter=jitter)
    for number, least in {1: 2.0, 2: 6.0, 3: 18.0, 4: 54.0, 5: 100.0, 5000: 100.0}.items():
        delays = [retry_delay(number, retry) for _ in range(200)]
        assert min(delays) >= least
        assert max(delays) <= least * (1.0 + jitter)
        # Random, so that jobs that failed together are not retried together.
        assert (len(set(delays)) > 1) == bool(jitter)


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_jobs_own_backoff_replaces_the_first_delay_and_a_lower_cap() -> None:
    retry = RetrySettings(initial_seconds=2.0, factor=3.0, max_seconds=100.0, jitter=0.0)
    assert [retry_delay(number, retry, 20) for number in (1, 2, 3)] == [20.0, 60.0, 100.0]
    assert [retry_delay(number, retry, 200) for number in (1, 2)] == [200.0, 200.0]
    assert retry_delay(1, retry, 0) == 0.0


def test_a_failed_job_waits_for_its_own_backoff_before_its_retry() -> None:
    job = queued("false", max_retries=1, backoff_seconds=3600)
    drain()
    job.refresh_from_db()
    assert job.status == "retrying"
    assert job.scheduled_for > timezone.now() + timedelta(minutes=50)


@pytest.mark.shows("explanation/worker.md#the-worker-that-maintains-dies")
def test_a_worker_prunes_finished_jobs_if_the_settings_say_so() -> None:
    ended = queued("true")
    drain()
    drain()
    assert ContainerJob.objects.filter(pk=ended.pk).exists()
    waiting = queued("true", scheduled_for=timezone.now() + timedelta(days=1))
    drain(settings=replace(SETTINGS, prune_after_seconds=0.001))
    assert list(ContainerJob.objects.all()) == [waiting]
    assert not JobAttempt.objects.exists()


def test_a_timeout_stops_the_command() -> None:
    # It outlasts the patience of the tests: who waits for its end fails.
    job = queued("sleep 600", timeout_seconds=1, grace_seconds=0, max_retries=0)
    drain()
    job.refresh_from_db()
    assert (job.status, job.failure_reason) == ("failed", "timeout")
    assert job.attempts.get().signal in (signal.SIGTERM, signal.SIGKILL)


@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
def test_cancelling_a_running_job_ends_its_process(background: WorkerLoop, tmp_path: Path) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    job = queued(f"sh -c 'echo $$ > {fifo}; exec sleep 600'")
    pid = fifo.read_text().strip()
    job.refresh_from_db()
    job.mark_as_cancelled(actor="alice")
    eventually(lambda: not JobAttempt.objects.filter(job=job, finished_at=None).exists())
    job.refresh_from_db()
    assert job.status == "cancelled"
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("cancelled_before", [True, False])
@pytest.mark.usefixtures("background")
@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
def test_a_command_in_a_long_grace_period_can_be_killed(tmp_path: Path, cancelled_before: bool) -> None:
    fifo, told = tmp_path / "pid", tmp_path / "told"
    os.mkfifo(fifo)
    script = f"trap 'touch {told}' TERM; echo $$ > {fifo}; while :; do sleep 0.05; done"
    job = queued(shlex.join(["sh", "-c", script]), grace_seconds=86400)
    pid = fifo.read_text().strip()
    job.refresh_from_db()
    if cancelled_before:
        queue.cancel(job, actor="alice")
        eventually(told.exists)
    queue.cancel(job, now=True, actor="alice")
    eventually(lambda: not JobAttempt.objects.filter(job=job, finished_at=None).exists())
    assert journal_of(job)[-1] == ("running", "cancelled")
    assert job.attempts.get().kill_requested_at is not None
    assert not Path(f"/proc/{pid}").exists()


def test_priority_and_schedule_order_the_queue(tmp_path: Path) -> None:
    later = ContainerJob.objects.create_job(command=f"sh -c 'echo later >> {tmp_path}/order'")
    later.mark_as_queued(scheduled_for=timezone.now() + timedelta(hours=1))
    for name, priority in (("low", 10), ("high", 90), ("middle", 50)):
        queued(f"sh -c 'echo {name} >> {tmp_path}/order'", priority=priority)
    drain(slots=1)
    assert (tmp_path / "order").read_text().split() == ["high", "middle", "low"]
    later.refresh_from_db()
    assert later.queue_status == "scheduled"


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed", "explanation/worker.md#a-host-dies")
def test_a_job_of_a_dead_worker_is_run_again() -> None:
    job = queued("true")
    assert len(store.claim(worker="dead", executors=["default"], limit=1, using="default")) == 1
    while job.status != "completed":
        drain()
        job.refresh_from_db()
    assert [(a.number, a.reason) for a in job.attempts.order_by("number")] == [(1, "lost"), (2, "")]


class TestStartingWithoutTheDatabase:
    def away(self, failures: int) -> tuple[WorkerLoop, list[str]]:
        """Return a loop whose first registrations find no database, as when its server is restarting."""
        loop = WorkerLoop(settings=SETTINGS, executors={}, options=WorkerOptions())
        tried: list[str] = []
        real = loop._heartbeat.register

        def register(using: str) -> None:
            tried.append("register")
            if len(tried) <= failures:
                connection.close()
                loop._hints.awaken()  # do not wait for the backoff
                raise OperationalError("connection refused")
            real(using)

        loop._heartbeat.register = register  # type: ignore[method-assign]
        return loop, tried

    def test_a_worker_waits_for_a_database_that_cannot_be_reached(self) -> None:
        loop, tried = self.away(3)
        assert loop._register()
        assert len(tried) == 4
        assert Worker.objects.filter(pk=loop.id).exists()

    def test_a_stop_ends_the_wait_for_the_database(self) -> None:
        loop, tried = self.away(1_000_000)
        loop.stop()
        assert loop.run() == 0
        assert tried == []

    def test_a_draining_worker_does_not_wait_for_the_database(self) -> None:
        loop, tried = self.away(1)
        loop._options = WorkerOptions(drain=True)
        with pytest.raises(OperationalError, match="refused"):
            loop._register()
        assert len(tried) == 1

    def test_a_worker_does_not_wait_for_a_database_that_refuses_the_connection(self) -> None:
        loop = WorkerLoop(settings=SETTINGS, executors={}, options=WorkerOptions())

        def refused(using: str) -> None:
            connection.ensure_connection()
            raise OperationalError("no such table")

        loop._heartbeat.register = refused  # type: ignore[method-assign]
        with pytest.raises(OperationalError, match="no such table"):
            loop._register()


def test_a_worker_that_ends_by_an_error_leaves_no_row_and_no_lease() -> None:
    class BrokenExecutor(ProcessExecutor):
        def observe(self) -> Observations:
            raise ZeroDivisionError

    queued("sleep 600")
    loop = WorkerLoop(settings=SETTINGS, executors={"default": BrokenExecutor()}, options=WorkerOptions())
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert loop.id != ""
    assert not Worker.objects.exists()


def test_a_database_that_refuses_the_connection_is_not_reported_as_unreachable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused() -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                # As by a statement_timeout, which whether it answers, asked after that, would be subject to as well.
                cursor.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(600)")
            cursor.execute("SELECT no_such_column FROM container_manager_worker")

    database = Database("default", lease_seconds=30.0)
    try:
        assert database.attempt(refused) is None
        assert "The database refused what it was asked, trying again" in caplog.text
        assert "did not answer" not in caplog.text
    finally:
        database.close()

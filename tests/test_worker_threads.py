"""No thread of a worker ends without a word, and none of its receivers holds it up."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from container_manager import queue
from container_manager.executors.base import Capabilities, LaunchSpec, LogPage
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, Worker
from container_manager.signals import job_transitioned
from container_manager.store.notifications import Listener
from container_manager.worker import ThreadFailed, WorkerLoop, WorkerOptions
from container_manager.worker.finisher import Finisher
from container_manager.worker.heartbeat import Heartbeat

from .jobs import row_of
from .polling import PATIENCE_SECONDS
from .test_protocol import SETTINGS, eventually, working

pytestmark = pytest.mark.django_db(transaction=True)


def running(executor: ProcessExecutor) -> tuple[WorkerLoop, threading.Thread, list[BaseException]]:
    loop = WorkerLoop(settings=SETTINGS, executors={"default": executor}, options=WorkerOptions())
    raised: list[BaseException] = []

    def run() -> None:
        try:
            loop.run()
        except Exception as error:
            raised.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return loop, thread, raised


def fails(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError


def leaves(*_: Any, **__: Any) -> Any:
    raise SystemExit


class PumpFails(ProcessExecutor):
    """The thread that reads the output of all jobs ends."""

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        self._pump._read_output = fails  # type: ignore[method-assign]
        return super().logs(handle, cursor, limit)


class WatchFails(ProcessExecutor):
    def watch(self, timeout: float) -> bool:
        if self._pump.jobs:
            fails()
        return super().watch(timeout)


class LaunchLeaves(ProcessExecutor):
    capabilities = Capabilities(survives_worker=False, isolates=False, launch_threads=1)

    def submit(self, spec: LaunchSpec) -> str:
        leaves()
        raise NotImplementedError


@pytest.mark.parametrize("executor", [PumpFails, WatchFails, LaunchLeaves])
@pytest.mark.shows("explanation/worker.md#a-part-of-a-worker-fails")
def test_an_executors_thread_that_ends_by_an_error_ends_the_worker(
    executor: type[ProcessExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.enqueue(command="sh -c 'while :; do echo more; sleep 0.1; done'")
    _, thread, raised = running(executor())
    thread.join(PATIENCE_SECONDS)
    assert [type(error) for error in raised] == [ThreadFailed]
    assert "ended by an error, so the worker ends" in caplog.text
    assert f"leaves jobs whose ends are not stored: {job.pk}" in caplog.text
    # Others need not wait for its lease.
    assert not Worker.objects.exists()


@pytest.mark.parametrize(("part", "method"), [(Heartbeat, "_beat"), (Finisher, "_hand_back"), (Listener, "_ask")])
@pytest.mark.shows("explanation/worker.md#a-part-of-a-worker-fails")
def test_a_workers_own_thread_that_ends_by_an_error_ends_the_worker(
    part: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part is Finisher and connection.vendor == "sqlite":
        pytest.skip("On SQLite the loop stores the ends itself.")
    if part is Listener and connection.vendor != "postgresql":
        pytest.skip("Only PostgreSQL notifies.")
    monkeypatch.setattr(part, method, leaves)
    queue.enqueue(command="true")
    loop, thread, raised = running(ProcessExecutor())
    eventually(lambda: loop.id)
    loop._heartbeat.hurry()
    thread.join(PATIENCE_SECONDS)
    assert [type(error) for error in raised] == [ThreadFailed]


def test_errors_in_threads_of_others_do_not_end_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: noted.append(args.thread.name))
    before = threading.excepthook
    with working(ProcessExecutor()) as loop:
        other = threading.Thread(target=leaves, name="of-the-project")
        other.start()
        other.join()
        assert (noted, loop._failed_threads) == (["of-the-project"], [])
    assert threading.excepthook is before


@contextmanager
def told(receiver: Callable[..., None]) -> Iterator[None]:
    job_transitioned.connect(receiver)
    try:
        yield
    finally:
        job_transitioned.disconnect(receiver)


class Slow:
    """A receiver that takes as long as a test likes, and uses the database."""

    def __init__(self) -> None:
        self.go, self.entered = threading.Event(), threading.Event()
        self.heard: list[tuple[str, str]] = []
        self.threads: set[str] = set()

    def __call__(self, transitions: Any, **kwargs: Any) -> None:
        self.threads.add(threading.current_thread().name)
        for move in transitions:
            if move.target in ("running", "completed"):
                self.entered.set()
                self.go.wait(PATIENCE_SECONDS)
                ContainerJob.objects.get(pk=move.pk)
                self.heard.append((move.source, move.target))


@pytest.mark.shows("reference/jobs.md#the-signal")
def test_a_slow_signal_receiver_delays_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("container_manager.worker.receivers._LAST_SECONDS", PATIENCE_SECONDS)
    slow = Slow()
    with told(slow), working(ProcessExecutor()):
        first = queue.enqueue(command="true")
        assert slow.entered.wait(PATIENCE_SECONDS)
        second = queue.enqueue(command="true")
        for job in (first, second):
            eventually(lambda of=job: row_of(of)["status"] == "completed")
        assert slow.heard == []
        slow.go.set()
    # In order, and all of them before the worker has ended.
    assert sorted(slow.heard) == [("queued", "running")] * 2 + [("running", "completed")] * 2
    assert slow.heard[0] == ("queued", "running")
    assert slow.heard[-1] == ("running", "completed")
    assert slow.threads - {"MainThread"} == {"container-manager-receivers"}


@pytest.mark.shows("reference/jobs.md#the-signal")
def test_a_worker_that_ends_logs_the_signals_that_its_receivers_did_not_get(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("container_manager.worker.receivers._LAST_SECONDS", 0.1)
    slow = Slow()
    with told(slow):
        queue.enqueue(command="true")
        WorkerLoop(settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions(drain=True)).run()
        assert "The transitions of 2 statements did not reach all receivers" in caplog.text
        slow.go.set()
        # It is at work still, and uses the database.
        eventually(lambda: "container-manager-receivers" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.shows("reference/jobs.md#the-signal")
def test_the_backlog_of_signals_for_receivers_is_bounded_and_dropped_signals_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("container_manager.worker.receivers._MOST_WAITING", 2)
    slow = Slow()
    with told(slow):
        with working(ProcessExecutor(), slots=1):
            queue.enqueue(command="true")
            assert slow.entered.wait(PATIENCE_SECONDS)
            jobs = [queue.enqueue(command="true") for _ in range(3)]
            eventually(lambda: all(row_of(job)["status"] == "completed" for job in jobs))
            assert "Receivers of job_transitioned are too slow" in caplog.text
            slow.go.set()
        assert "did not reach all receivers" in caplog.text


class TestDescriptors:
    @pytest.fixture
    def many(self) -> Iterator[None]:
        """Open so many descriptors that the next one's number is above 1,023."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        held = [os.open(os.devnull, os.O_RDONLY)]
        while held[-1] < 1100:
            held.append(os.dup(held[0]))
        yield
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_a_worker_runs_jobs_when_descriptors_have_high_numbers(self, many: None) -> None:
        """The warden's channel has one, which select() refuses; so has the listener's connection."""
        ours, theirs = socket.socketpair()
        assert ours.fileno() > 1023
        for each in (ours, theirs):
            each.close()
        job = queue.enqueue(command="true", max_retries=0)
        with working(ProcessExecutor()) as loop:
            eventually(lambda: row_of(job)["status"] == "completed")
            assert loop._failed_threads == []


class TestCallCommand:
    def test_a_worker_run_by_call_command_restores_the_signal_handlers(self) -> None:
        import signal

        def mine(*_: object) -> None: ...

        before = {number: signal.signal(number, mine) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            call_command("container", "worker", "--drain", "--slots", "1")
            assert {signal.getsignal(number) for number in before} == {mine}
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @pytest.mark.shows("howto/worker.md#stop-a-worker")
    def test_a_worker_can_be_run_by_call_command_in_a_thread(self) -> None:
        job = queue.enqueue(command="true")
        failed: list[BaseException] = []

        def call() -> None:
            try:
                call_command("container", "worker", "--drain", "--slots", "1")
            except BaseException as error:
                failed.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        assert (failed, row_of(job)["status"]) == ([], "completed")

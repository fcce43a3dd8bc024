"""The lease is renewed whatever the loop waits for, and what runs goes on for as long as nobody else may have it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from container_manager import queue, store
from container_manager.executors.base import Observations
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.store.places import is_gone, this_place

from .jobs import row_of
from .polling import PATIENCE_SECONDS
from .protocol.records import expire_lease, rescue
from .test_protocol import SETTINGS, eventually, working
from .test_zombie import freeze
from .workers import worker

pytestmark = pytest.mark.django_db(transaction=True)


def renewals(worker: str) -> Any:
    return Worker.objects.get(pk=worker).lease_expires_at


@contextmanager
def jobs_table_locked() -> Iterator[None]:
    """Lock the jobs' table for others, as a migration that changes it does."""
    name = ContainerJob._meta.db_table
    if connection.vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLES {name} WRITE")
            try:
                yield
            finally:
                cursor.execute("UNLOCK TABLES")
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {name}")
        yield


class HangingExecutor(ProcessExecutor):
    """Makes the loop wait for as long as a test likes."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.hangs = threading.Event(), threading.Event()
        self.go.set()

    def observe(self) -> Observations:
        if not self.go.is_set():
            self.hangs.set()
            self.go.wait(PATIENCE_SECONDS)
        return super().observe()


@pytest.mark.shows("explanation/worker.md#the-lease")
def test_the_lease_is_renewed_while_the_loop_waits() -> None:
    executor = HangingExecutor()
    queue.enqueue(command="sleep 600")
    with working(executor) as loop:
        eventually(lambda: executor.observe().attempts)
        executor.go.clear()
        try:
            assert executor.hangs.wait(PATIENCE_SECONDS)
            before = renewals(loop.id)
            loop._heartbeat.hurry()
            eventually(lambda: renewals(loop.id) > before)
        finally:
            executor.go.set()


@pytest.mark.shows("explanation/worker.md#the-lease")
def test_the_lease_is_not_renewed_while_the_loop_hangs_for_long(caplog: pytest.LogCaptureFixture) -> None:
    executor = HangingExecutor()
    queue.enqueue(command="sleep 600")
    with working(executor) as loop:
        eventually(lambda: executor.observe().attempts)
        executor.go.clear()
        try:
            assert executor.hangs.wait(PATIENCE_SECONDS)
            # Three leases ago, without waiting for them.
            loop._heartbeat._turned_at -= 3 * SETTINGS.lease_seconds
            before = renewals(loop.id)
            loop._heartbeat.hurry()
            eventually(lambda: "The loop of worker" in caplog.text)
            assert renewals(loop.id) == before
        finally:
            executor.go.set()
        eventually(lambda: renewals(loop.id) > before)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no table")
@pytest.mark.shows("explanation/worker.md#the-lease")
def test_a_lock_on_the_jobs_table_does_not_stop_lease_renewal(tmp_path: Path) -> None:
    os.mkfifo(go := tmp_path / "go")
    job = queue.enqueue(command=f"sh -c 'read word < {go}'")
    executor = ProcessExecutor()
    with working(executor, settings=replace(SETTINGS, lease_seconds=1.2)) as loop:
        eventually(lambda: executor.observe().attempts)
        former = loop.id
        with jobs_table_locked():
            began = time.monotonic()
            eventually(lambda: loop._database.is_away)
            # Without a renewal meanwhile the lease would have expired.
            eventually(lambda: loop._heartbeat._renewed_at > began + 1.2)
        eventually(lambda: not loop._database.is_away)
        assert loop.id == former
        assert [o.exit for o in executor.observe().attempts] == [None]
        # Here, where a database that is slow beside so short a lease is asked again: at its end a worker leaves.
        go.write_text("\n")
        eventually(lambda: row_of(job)["status"] == "completed")
    assert job.attempts.get().number == 1


@pytest.mark.shows("explanation/worker.md#the-database-is-away")
def test_a_local_process_goes_on_when_its_workers_lease_has_expired(tmp_path: Path) -> None:
    """Another worker leaves it alone, for the process of its own worker lives and may find the database again."""
    go = tmp_path / "go"
    os.mkfifo(go)
    job = queue.enqueue(command=f"sh -c 'read word < {go}'", max_retries=0)
    with worker("--slots", "1", log=tmp_path / "first", CM_WORKER_OUTAGE_SECONDS="600") as first:
        eventually(JobAttempt.objects.exists)
        freeze(first)
        name = Worker.objects.get(pid=first.pid).pk
        Worker.objects.filter(pk=name).update(lease_expires_at=job.created_at)
        with working(ProcessExecutor()) as other:
            for _ in range(3):
                other._rescuer._look.hurry()
                other._hints.awaken()
            served = queue.enqueue(command="true")
            eventually(lambda: row_of(served)["status"] == "completed")
            assert Worker.objects.filter(pk=name).exists()
            first.send_signal(signal.SIGCONT)
            with go.open("w") as word:
                word.write("\n")
            eventually(lambda: row_of(job)["status"] == "completed")
    assert (row_of(job)["attempt"], job.attempts.get().worker) == (1, name)


class TestWhoMayBeRescued:
    def registered(self, *, place: str, pid: int, rescuable_seconds: float) -> ContainerJob:
        job = queue.enqueue(command="true")
        row = Worker(id="dead", host="h", place=place, pid=pid, executors=["default"], lease_expires_at=job.created_at)
        store.register_worker(row, lease_seconds=60.0, rescuable_seconds=rescuable_seconds, using="default")
        assert len(store.claim(worker="dead", executors=["default"], limit=1, using="default")) == 1
        assert store.renew_lease("dead", lease_seconds=-1.0, rescuable_seconds=rescuable_seconds, using="default")
        return job

    def rescued(self) -> int:
        return rescue("rescuer")

    def test_a_worker_with_a_valid_lease_is_not_rescued(self) -> None:
        self.registered(place=this_place(), pid=gone(), rescuable_seconds=-1.0)
        assert store.renew_lease("dead", lease_seconds=60.0, using="default")
        assert self.rescued() == 0

    def test_a_worker_on_another_host_is_rescued_only_when_its_processes_must_have_ended(self) -> None:
        self.registered(place="elsewhere", pid=gone(), rescuable_seconds=60.0)
        assert self.rescued() == 0
        expire_lease("dead")
        assert self.rescued() == 1

    @pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
    def test_a_worker_whose_process_is_gone_is_rescued_as_soon_as_its_lease_has_expired(self) -> None:
        self.registered(place=this_place(), pid=gone(), rescuable_seconds=60.0)
        assert self.rescued() == 1

    def test_a_worker_whose_process_still_exists_is_not_rescued_before_its_processes_must_have_ended(self) -> None:
        self.registered(place=this_place(), pid=os.getpid(), rescuable_seconds=60.0)
        assert self.rescued() == 0
        expire_lease("dead")
        assert self.rescued() == 1


def gone() -> int:
    """Return the pid of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@pytest.mark.without_database
def test_a_process_is_known_to_be_gone_only_on_its_own_host_and_boot() -> None:
    pid = gone()
    assert is_gone(this_place(), pid)
    assert not is_gone("", pid)
    assert not is_gone("another boot", pid)
    # Process 1 may be another user's.
    assert not is_gone(this_place(), 1)

"""Rows that an application's transaction holds locked: the worker passes over them, and comes back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.jobs.progress_lines import Progress
from container_manager.models import ContainerJob, JobAttempt

from .jobs import row_of
from .polling import PATIENCE_SECONDS
from .protocol.records import register, rescue
from .test_protocol import eventually, working

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows."),
]
SETTINGS = AppSettings(poll_seconds=0.05)
Locking = Callable[[ContainerJob], Any]


def lock_job(job: ContainerJob) -> None:
    ContainerJob.objects.select_for_update().get(pk=job.pk)


def update_job(job: ContainerJob) -> None:
    ContainerJob.objects.filter(pk=job.pk).update(labels={"seen": "yes"})


def lock_attempt(job: ContainerJob) -> None:
    JobAttempt.objects.select_for_update().get(job=job)


def delete_attempt(job: ContainerJob) -> None:
    """Do what a bulk delete does first."""
    JobAttempt.objects.filter(job=job).delete()


LOCKS = [lock_job, update_job, lock_attempt, delete_attempt]


@contextmanager
def holding(lock: Locking, job: ContainerJob) -> Iterator[None]:
    """Hold rows locked in another transaction, which is rolled back at the end."""
    has_locked, is_over = threading.Event(), threading.Event()

    def work() -> None:
        try:
            with transaction.atomic():
                lock(job)
                has_locked.set()
                is_over.wait(PATIENCE_SECONDS)
                transaction.set_rollback(True)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert has_locked.wait(PATIENCE_SECONDS)
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    """Prepare the connection as a worker does."""
    store.prepare_session(lease_seconds=60.0, using="default")
    yield
    connection.close()


def running(count: int) -> list[ContainerJob]:
    jobs: list[ContainerJob] = [queue.enqueue(command="true") for _ in range(count)]
    store.claim(worker="w", executors=["default"], limit=count, using="default")
    return jobs


def completed(job: ContainerJob, **more: Any) -> store.Outcome:
    return store.Outcome(job_id=job.pk, attempt=1, **{"status": "completed", "exit_code": 0, **more})


@pytest.mark.parametrize("retry_after", [None, 0.0], ids=["completed", "retried"])
@pytest.mark.parametrize("lock", LOCKS)
def test_outcomes_are_stored_while_the_rows_of_another_job_are_locked(lock: Locking, retry_after: float | None) -> None:
    jobs = running(3)
    more = {} if retry_after is None else {"status": "failed", "reason": "error", "retry_after_seconds": retry_after}
    outcomes = [completed(job, **more) for job in jobs]
    with holding(lock, jobs[1]):
        assert store.finish(outcomes, worker="w", using="default") == {(jobs[0].pk, 1), (jobs[2].pk, 1)}
        assert (row_of(jobs[1])["status"], jobs[1].attempts.get().finished_at) == ("running", None)
    assert store.finish(outcomes[1:2], worker="w", using="default") == {(jobs[1].pk, 1)}
    assert {row_of(job)["status"] for job in jobs} == {"completed" if retry_after is None else "retrying"}


@pytest.mark.parametrize("lock", [lock_attempt, delete_attempt])
def test_a_cancelled_attempt_is_not_closed_while_its_rows_are_locked(lock: Locking) -> None:
    (job,) = running(1)
    ContainerJob.objects.filter(pk=job.pk).transition_to("cancelled")
    with holding(lock, job):
        assert store.finish([completed(job, status=None)], worker="w", using="default") == set()
    assert store.finish([completed(job, status=None)], worker="w", using="default") == {(job.pk, 1)}


@pytest.mark.parametrize("lock", [lock_attempt, delete_attempt])
def test_output_is_stored_while_another_attempt_is_locked(lock: Locking) -> None:
    jobs = running(3)
    entries = [store.LogEntry(sequence=0, stream="stdout", data=b"output")]
    changes = [store.LogChange(job_id=job.pk, attempt=1, entries=entries, gone=(5, 9)) for job in jobs]
    with holding(lock, jobs[1]):
        assert store.store_logs(changes, worker="w", using="default") == {(jobs[1].pk, 1)}
        assert [job.output() for job in (jobs[0], jobs[2])] == [b"output"] * 2
    assert store.store_logs(changes, worker="w", using="default") == set()
    assert jobs[1].output() == b"output"


@pytest.mark.parametrize("lock", [lock_attempt, delete_attempt])
def test_handles_are_stored_while_another_attempt_is_locked(lock: Locking) -> None:
    jobs = running(3)
    handles = [store.Launch(job.pk, 1, f"handle-{number}") for number, job in enumerate(jobs)]
    with holding(lock, jobs[1]):
        assert store.record_launches(handles, worker="w", using="default") == {(jobs[1].pk, 1)}
        found = {o.job.id: o.handle for o in store.owned_attempts(worker="w", using="default")}
        assert found == {jobs[0].pk: "handle-0", jobs[1].pk: "", jobs[2].pk: "handle-2"}
    assert store.record_launches(handles, worker="w", using="default") == set()


@pytest.mark.parametrize("lock", [lock_attempt, delete_attempt])
def test_progress_is_stored_while_another_attempt_is_locked(lock: Locking) -> None:
    jobs = running(3)
    changes = [store.ProgressChange(job.pk, 1, Progress(done=1, total=2)) for job in jobs]
    with holding(lock, jobs[1]):
        assert store.store_progress(changes, worker="w", using="default") == {(jobs[1].pk, 1)}
        assert [job.attempts.get().progress is None for job in jobs] == [False, True, False]
    assert store.store_progress(changes, worker="w", using="default") == set()
    assert jobs[1].attempts.get().progress == {"done": 1, "total": 2, "text": ""}


def test_retries_are_queued_while_another_retry_is_locked() -> None:
    jobs = running(3)
    more = {"status": "failed", "reason": "error", "retry_after_seconds": 0.0}
    store.finish([completed(job, **more) for job in jobs], worker="w", using="default")
    with holding(lock_job, jobs[1]):
        assert store.promote_retries(using="default") == 2
    assert store.promote_retries(using="default") == 1


@pytest.mark.parametrize("lock", LOCKS)
def test_attempts_are_rescued_while_the_rows_of_another_attempt_are_locked(lock: Locking) -> None:
    jobs = running(3)
    register("rescuer")
    with holding(lock, jobs[1]):
        assert rescue("rescuer") == 2
        assert row_of(jobs[1])["worker"] == "w"
    assert rescue("rescuer") == 1


@pytest.mark.parametrize("lock", LOCKS)
def test_jobs_are_pruned_while_the_rows_of_another_job_are_locked(lock: Locking) -> None:
    jobs = running(3)
    store.finish([completed(job) for job in jobs], worker="w", using="default")
    later = timezone.now() + timedelta(days=1)
    with holding(lock, jobs[1]):
        assert queue.prune_jobs(before=later) == 2
        assert list(ContainerJob.objects.values_list("pk", flat=True)) == [jobs[1].pk]
    assert queue.prune_jobs(before=later) == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Elsewhere who refers to a row locks it against changes.")
@pytest.mark.shows("explanation/worker.md#a-row-is-locked-by-your-application")
def test_a_foreign_key_to_a_job_blocks_neither_its_claim_nor_its_finish() -> None:
    """A foreign key's check locks the row referred to (FOR KEY SHARE) until the end of its transaction."""

    def refer(job: ContainerJob) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM container_manager_containerjob WHERE id = %s FOR KEY SHARE", [job.pk])

    job = queue.enqueue(command="true")
    with holding(refer, job):
        assert len(store.claim(worker="w", executors=["default"], limit=1, using="default")) == 1
    (locked,) = running(1)
    with holding(refer, job), holding(update_job, locked):
        # Sent again because of the other, it is still not in the way.
        assert store.finish([completed(job), completed(locked)], worker="w", using="default") == {(job.pk, 1)}


@pytest.mark.shows("explanation/worker.md#a-row-is-locked-by-your-application")
@pytest.mark.parametrize("lock", [lock_job, lock_attempt])
def test_a_worker_goes_on_while_the_rows_of_one_of_its_jobs_are_locked(
    lock: Locking, caplog: Any, tmp_path: Path
) -> None:
    os.mkfifo(go := tmp_path / "go")
    with working(ProcessExecutor(), settings=SETTINGS, slots=1):
        locked = queue.enqueue(command=f"sh -c 'echo started; read word < {go}; echo ended'")
        eventually(locked.attempts.exists)
        with holding(lock, locked), caplog.at_level(logging.WARNING, logger="container_manager"):
            go.write_text("\n")
            others = [queue.enqueue(command="true") for _ in range(5)]
            eventually(lambda: {row_of(job)["status"] for job in others} == {"completed"})
            eventually(lambda: str(locked.pk) in caplog.text)
            assert row_of(locked)["status"] == "running"
        eventually(lambda: row_of(locked)["status"] == "completed")
    assert locked.output() == b"started\nended\n"
    assert locked.attempts.get().finished_at is not None

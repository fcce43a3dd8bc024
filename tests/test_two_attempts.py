"""A job with two open attempts of one worker: each write changes the attempt that it names, and not the other.

The job was failed by hand and queued again while its first attempt still runs, and the same worker claimed it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from container_manager import queue, store
from container_manager.models import ContainerJob, JobAttempt, JobLog

from .jobs import row_of
from .protocol.records import rescue
from .test_locked_rows import holding

pytestmark = pytest.mark.django_db(transaction=True)
has_row_locks = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
both_ways = pytest.mark.parametrize("skip_locked", [False, True], ids=["at first", "skipping locked rows"])


@pytest.fixture
def job() -> Iterator[ContainerJob]:
    store.prepare_session(lease_seconds=60.0, using="default")
    job = queue.enqueue(command="true")
    claim()
    job.refresh_from_db()
    job.mark_as_failed(should_retry=True, actor="alice")
    job.mark_as_queued(actor="alice")
    claim()
    assert open_attempts(job) == [1, 2]
    yield job
    connection.close()


def claim() -> None:
    assert len(store.claim(worker="w", executors=["default"], limit=1, using="default")) == 1


def open_attempts(job: ContainerJob) -> list[int]:
    return list(job.attempts.filter(worker="w", finished_at=None).order_by("number").values_list("number", flat=True))


def finish(job: ContainerJob, *numbers: int, skip_locked: bool = False) -> list[int]:
    outcomes = [store.Outcome(job_id=job.pk, attempt=n, status="completed", exit_code=n) for n in numbers]
    closed = store.finish(outcomes, worker="w", skip_locked=skip_locked, using="default")
    assert {key for key, _ in closed} <= {job.pk}
    return sorted(number for _, number in closed)


def change(job: ContainerJob, number: int) -> store.LogChange:
    entry = store.LogEntry(sequence=0, stream="stdout", data=b"x")
    return store.LogChange(job_id=job.pk, attempt=number, entries=[entry])


def lock(job: ContainerJob, number: int) -> Any:
    return holding(lambda job: JobAttempt.objects.select_for_update().get(job=job, number=number), job)


@both_ways
def test_finishing_the_earlier_of_two_attempts_closes_only_that_attempt(job: ContainerJob, skip_locked: bool) -> None:
    assert finish(job, 1, skip_locked=skip_locked) == [1]
    assert open_attempts(job) == [2]
    row = row_of(job)
    assert (row["status"], row["attempt"], row["worker"], row["exit_code"]) == ("running", 2, "w", None)


@both_ways
def test_finishing_the_current_of_two_attempts_finishes_the_job_and_leaves_the_earlier_open(
    job: ContainerJob, skip_locked: bool
) -> None:
    assert finish(job, 2, skip_locked=skip_locked) == [2]
    assert open_attempts(job) == [1]
    assert (row_of(job)["status"], row_of(job)["exit_code"]) == ("completed", 2)


@both_ways
def test_outcomes_of_two_attempts_in_one_batch_are_stored_for_their_own_attempt(
    job: ContainerJob, skip_locked: bool
) -> None:
    assert finish(job, 2, 1, skip_locked=skip_locked) == [1, 2]
    assert list(job.attempts.order_by("number").values_list("exit_code", flat=True)) == [1, 2]
    assert (row_of(job)["status"], row_of(job)["exit_code"]) == ("completed", 2)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="The others lock rows by a statement of its own.")
def test_outcomes_of_two_attempts_in_one_batch_are_stored_in_any_order_of_their_rows(job: ContainerJob) -> None:
    """PostgreSQL locks no row that the same statement has changed: it must have locked all before it changes any."""
    # The new version of a changed row comes after the others where a plan reads the table, as it may behind a pooler.
    job.attempts.filter(number=1).update(handle="h")
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = on")
    assert finish(job, 1, 2, skip_locked=True) == [1, 2]


def test_only_the_current_of_two_attempts_has_the_jobs_status(job: ContainerJob) -> None:
    owned = store.owned_attempts(worker="w", using="default")
    assert sorted((each.job.attempt, each.status) for each in owned) == [(1, ""), (2, "running")]


def test_handles_and_output_are_stored_for_the_attempt_that_they_name(job: ContainerJob) -> None:
    assert store.record_launches([store.Launch(job.pk, 1, handle="first")], worker="w", using="default") == set()
    assert store.store_logs([change(job, 1)], worker="w", skip_locked=True, using="default") == set()
    assert list(job.attempts.order_by("number").values_list("handle", flat=True)) == ["first", ""]
    assert list(JobLog.objects.values_list("attempt__number", flat=True)) == [1]


@has_row_locks
@pytest.mark.parametrize("number", [1, 2])
def test_outcome_handle_and_output_of_a_locked_attempt_are_deferred(job: ContainerJob, number: int) -> None:
    key, other = (job.pk, number), 3 - number
    with lock(job, number):
        assert store.record_launches([store.Launch(*key, handle="h")], worker="w", using="default") == {key}
        assert store.store_logs([change(job, number)], worker="w", skip_locked=True, using="default") == {key}
        assert finish(job, 1, 2, skip_locked=True) == [other]
        assert open_attempts(job) == [number]
    assert finish(job, number) == [number]


@has_row_locks
@pytest.mark.parametrize(("number", "holder"), [(1, "rescuer"), (2, "w")])
def test_a_rescue_of_one_of_two_attempts_takes_the_job_only_with_the_current_one(
    job: ContainerJob, number: int, holder: str
) -> None:
    with lock(job, number):
        assert rescue("rescuer") == 1
        assert open_attempts(job) == [number]
        assert row_of(job)["worker"] == holder
    assert rescue("rescuer") == 1
    assert (open_attempts(job), row_of(job)["worker"]) == ([], "rescuer")

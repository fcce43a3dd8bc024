"""Unique keys: of the jobs with the same key at most one holds it, on every database, and nothing leaves it behind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from container_manager import queue, store
from container_manager.columns.unique_keys import KEY_CONSTRAINT
from container_manager.models import ContainerJob, JobStatus
from container_manager.queue import UniqueKeyHeld

pytestmark = pytest.mark.django_db(transaction=True)

UNTIL_FINISHED: dict[str, Any] = {}
UNTIL_STARTED: dict[str, Any] = {"unique_until": "started"}
FOR_AN_HOUR: dict[str, Any] = {"unique_seconds": 3600}


def enqueue(key: str = "invoice-17", **fields: Any) -> ContainerJob:
    return queue.enqueue(command="true", unique_key=key, **fields)


def claim() -> store.ClaimedJob:
    (job,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
    return job


def finish(job: store.ClaimedJob, status: str = "completed", **values: Any) -> None:
    outcome = store.Outcome(job_id=job.id, attempt=job.attempt, status=status, exit_code=0, **values)
    assert store.finish([outcome], worker="w", using="default") == {(job.id, job.attempt)}


def complete() -> None:
    finish(claim())


def fail_for_good() -> None:
    finish(claim(), "failed", reason="error")


def fail_and_retry() -> None:
    finish(claim(), "failed", reason="error", retry_after_seconds=0.0)


def cancel() -> None:
    queue.cancel(ContainerJob.objects.get(unique_key="invoice-17"))


def prune() -> None:
    complete()
    ContainerJob.objects.update(status_changed_at="2020-01-01T00:00:00Z")
    assert queue.prune_jobs(before=ContainerJob.objects.get().created_at) == 1


def pass_an_hour() -> None:
    for job in ContainerJob.objects.all():
        ContainerJob.objects.filter(pk=job.pk).update(created_at=job.created_at - timedelta(hours=1))


def nothing() -> None:
    pass


@pytest.mark.shows("howto/unique-jobs.md#for-how-long")
@pytest.mark.parametrize(
    ("scope", "happens", "is_held"),
    [
        (UNTIL_FINISHED, nothing, True),
        (UNTIL_FINISHED, claim, True),
        (UNTIL_FINISHED, fail_and_retry, True),
        (UNTIL_FINISHED, complete, False),
        (UNTIL_FINISHED, fail_for_good, False),
        (UNTIL_FINISHED, cancel, False),
        (UNTIL_FINISHED, prune, False),
        (UNTIL_STARTED, nothing, True),
        (UNTIL_STARTED, claim, False),
        (UNTIL_STARTED, fail_and_retry, False),
        (UNTIL_STARTED, cancel, False),
        (FOR_AN_HOUR, claim, True),
        (FOR_AN_HOUR, complete, True),
        (FOR_AN_HOUR, fail_for_good, True),
        (FOR_AN_HOUR, cancel, False),
        (FOR_AN_HOUR, prune, False),
        (FOR_AN_HOUR, pass_an_hour, False),
    ],
)
def test_a_job_holds_its_key_for_as_long_as_its_scope_says(
    scope: dict[str, Any], happens: Callable[[], object], is_held: bool
) -> None:
    first = enqueue(**scope)
    assert not first.existed
    happens()
    second = enqueue(**scope)
    assert second.existed is is_held
    assert (second.pk == first.pk) is is_held
    assert second.status == (ContainerJob.objects.get(pk=first.pk).status if is_held else JobStatus.QUEUED)


def test_unique_keys_are_compared_exactly() -> None:
    keys = ["invoice", "Invoice", "invoice ", "ïnvoice"]
    assert [enqueue(key).existed for key in keys] == [False] * len(keys)


def test_jobs_without_a_unique_key_do_not_exclude_each_other() -> None:
    assert not queue.enqueue(command="true").existed
    assert not queue.enqueue(command="true").existed


def test_scopes_of_one_key_exclude_each_other() -> None:
    first = enqueue(**UNTIL_STARTED)
    assert enqueue(**UNTIL_FINISHED).pk == first.pk


def test_a_pending_job_holds_its_key_too() -> None:
    first = ContainerJob.objects.create_job(command="true", unique_key="invoice-17")
    assert ContainerJob.objects.create_job(command="true", unique_key="invoice-17").existed
    assert enqueue().pk == first.pk


def test_the_callers_transaction_stays_usable_after_a_duplicate() -> None:
    enqueue()
    with transaction.atomic():
        before = queue.enqueue(command="true")
        assert enqueue().existed
        after = queue.enqueue(command="true")
    assert ContainerJob.objects.filter(pk__in=[before.pk, after.pk]).count() == 2


def test_a_key_is_free_again_if_the_transaction_is_rolled_back() -> None:
    with transaction.atomic():
        enqueue()
        transaction.set_rollback(True)
    assert not enqueue().existed


def test_a_bulk_enqueue_says_for_each_job_which_one_holds_its_key() -> None:
    there = enqueue("c")
    jobs = [ContainerJob(command="true", unique_key=key) for key in ("b", "", "c", "a", "b", "")]
    found = queue.enqueue_many(jobs)
    assert found == [jobs[0], jobs[1], there, jobs[3], jobs[0], jobs[5]]
    assert [job.existed for job in found] == [False, False, True, False, False, False]
    assert ContainerJob.objects.count() == 5


def test_a_bulk_enqueue_without_conflicts_takes_one_insert_for_the_jobs_with_keys(
    django_assert_max_num_queries: Any,
) -> None:
    jobs = [ContainerJob(command="true", unique_key=f"key-{number}") for number in range(50)]
    # Two transactions' ends, a savepoint's, the INSERT, and a notification where there is one.
    with django_assert_max_num_queries(8):
        queue.enqueue_many(jobs)


@pytest.mark.shows("howto/unique-jobs.md#retries")
class TestRetries:
    def test_a_failed_job_cannot_be_retried_while_another_one_holds_its_key(self) -> None:
        failed = enqueue()
        fail_for_good()
        enqueue()
        failed.refresh_from_db()
        with pytest.raises(UniqueKeyHeld, match="invoice-17"):
            queue.retry(failed)
        assert ContainerJob.objects.get(pk=failed.pk).status == failed.status == JobStatus.FAILED
        with pytest.raises(UniqueKeyHeld):
            ContainerJob.objects.filter(pk=failed.pk).transition_to("retrying")

    def test_a_failed_job_takes_its_key_back_when_it_is_retried(self) -> None:
        failed = enqueue()
        fail_for_good()
        failed.refresh_from_db()
        queue.retry(failed)
        assert enqueue().pk == failed.pk

    def test_a_completed_job_is_not_run_again_while_another_one_holds_its_key(self) -> None:
        completed = enqueue()
        complete()
        holder = enqueue()
        completed.refresh_from_db()
        with pytest.raises(UniqueKeyHeld):
            queue.retry(completed)
        queue.cancel(holder)
        assert queue.retry(completed).unique_key == "invoice-17"

    def test_a_job_that_was_unique_until_its_start_is_retried_beside_its_successor(self) -> None:
        first = enqueue(**UNTIL_STARTED)
        running = claim()
        second = enqueue(**UNTIL_STARTED)
        finish(running, "failed", reason="error", retry_after_seconds=0.0)
        again = ContainerJob.objects.get(pk=first.pk)
        again.mark_as_queued()
        assert {job.id for job in (claim(), claim())} == {first.pk, second.pk}


class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"unique_key": "k" * 256}, "unique_key"),
            ({"unique_key": "two\nlines"}, "unique_key"),
            ({"unique_key": 17}, "unique_key"),
            ({"unique_key": "k", "unique_until": "tomorrow"}, "unique_until"),
            ({"unique_key": "k", "unique_seconds": 0}, "unique_seconds"),
            ({"unique_seconds": 60}, "unique_seconds"),
            ({"unique_key": "k", "unique_seconds": 60, "unique_until": "started"}, "unique_seconds"),
        ],
    )
    def test_a_wrong_unique_key_option_is_refused_with_the_name_of_its_field(
        self, fields: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ValidationError) as refused:
            queue.enqueue(command="true", **fields)
        assert list(refused.value.message_dict) == [field]

    def test_a_duplicate_id_is_not_reported_as_a_duplicate_unique_key(self) -> None:
        first = enqueue("a")
        with pytest.raises(IntegrityError):
            enqueue("b", id=first.pk)

    def test_a_form_names_the_field_of_a_unique_key_that_is_taken(self) -> None:
        enqueue()
        with pytest.raises(ValidationError) as refused:
            ContainerJob(command="true", unique_key="invoice-17").full_clean()
        assert list(refused.value.message_dict) == ["unique_key"]


def test_the_holder_of_a_key_is_found_by_the_index_that_holds_it() -> None:
    enqueue()
    sql, params = ContainerJob.objects.holding("invoice-17").values("pk").query.sql_with_params()
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(("EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN ") + sql, params)
        assert KEY_CONSTRAINT in str(cursor.fetchall())


def test_the_database_itself_refuses_a_second_job_with_a_key() -> None:
    first, other = enqueue(), queue.enqueue(command="true")
    with pytest.raises(IntegrityError), transaction.atomic():
        ContainerJob.objects.filter(pk=other.pk).update(unique_key="invoice-17")
    assert ContainerJob.objects.get(unique_key="invoice-17").pk == first.pk

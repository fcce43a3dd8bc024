"""All 49 pairs of statuses, by each of the four ways to change one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asgiref.sync import async_to_sync
from django.db import IntegrityError, connection, transaction

from container_manager.models import ContainerJob
from container_manager.statemachine import InvalidTransition, MissingRow, StaleTransition, UnknownState, UnsavedInstance

from .jobs import LEGAL, PAIRS, STATUSES, columns_for, job_in, journal_of, row_of

pytestmark = pytest.mark.django_db


def by_method(job: ContainerJob, target: str) -> None:
    job.transition_to(target)


def by_save(job: ContainerJob, target: str) -> None:
    job.status = target
    job.save()


def by_update(job: ContainerJob, target: str) -> None:
    ContainerJob.objects.filter(pk=job.pk).update(status=target, **columns_for(target))


def by_sql(job: ContainerJob, target: str) -> None:
    values = columns_for(target)
    fields = [ContainerJob._meta.get_field(name) for name in values]
    assignments = ", ".join(f"{field.column} = %s" for field in fields)
    adapted = [field.get_db_prep_value(values[field.name], connection) for field in fields]
    key = ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE container_manager_containerjob SET status = %s, {assignments} WHERE id = %s",
            [target, *adapted, key],
        )


WAYS = [by_method, by_save, by_update, by_sql]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "target"), sorted(LEGAL))
def test_a_legal_edge_passes_and_is_in_the_journal(
    source: str, target: str, way: Callable[[ContainerJob, str], None]
) -> None:
    job = job_in(source)
    way(job, target)
    assert row_of(job)["status"] == target
    assert journal_of(job) == [(source, target)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "target"), [p for p in PAIRS if p not in LEGAL and p[0] != p[1]])
def test_an_illegal_edge_is_refused_and_leaves_everything(
    source: str, target: str, way: Callable[[ContainerJob, str], None]
) -> None:
    job = job_in(source)
    row, memory = row_of(job), {k: v for k, v in vars(job).items() if k != "_state"}
    with pytest.raises((InvalidTransition, IntegrityError)) as refusal, transaction.atomic():
        way(job, target)
    text = str(refusal.value)
    assert f"from {source}" in text or f"{source} -> {target}" in text
    for valid in ContainerJob.VALID_TRANSITIONS[source]:
        assert f"'{valid}'" in text
    if not ContainerJob.VALID_TRANSITIONS[source]:
        assert "terminal" in text
    assert row_of(job) == row
    assert journal_of(job) == []
    if way is by_method:
        assert {k: v for k, v in vars(job).items() if k != "_state"} == memory


@pytest.mark.parametrize("status", ContainerJob.Status.values)
def test_the_same_status_is_refused_by_transition_and_no_change_by_save(status: str) -> None:
    job = job_in(status)
    with pytest.raises(InvalidTransition):
        job.transition_to(status)
    job.status = status
    job.save()
    assert journal_of(job) == []


@pytest.mark.parametrize(("source", "target"), sorted(LEGAL))
def test_can_transition_to_agrees_with_the_map(source: str, target: str) -> None:
    assert job_in(source).can_transition_to(target)
    assert not job_in(source).can_transition_to("bogus")


@pytest.mark.parametrize("bad", ["bogus", None, 3, "QUEUED", "queued ", b"queued"])
def test_an_unknown_status_names_the_seven(bad: object) -> None:
    job = job_in("pending")
    with pytest.raises(UnknownState) as refusal:
        job.transition_to(bad)
    assert set(refusal.value.states) == set(STATUSES)
    assert all(status in str(refusal.value) for status in STATUSES)
    with pytest.raises(UnknownState):
        ContainerJob.objects.all().transition_to(bad)
    assert job.status == row_of(job)["status"] == "pending"


def test_an_unsaved_instance_is_told_to_save_first() -> None:
    with pytest.raises(UnsavedInstance, match="save"):
        ContainerJob(command="true").transition_to("queued")


def test_a_deleted_row_is_a_missing_row() -> None:
    job = job_in("pending")
    ContainerJob.objects.all().delete()
    with pytest.raises(MissingRow, match="no such row"):
        job.transition_to("queued")
    assert job.status == "pending"


def test_failing_with_retry_goes_through_failed_in_the_journal() -> None:
    job = job_in("running")
    job.mark_as_failed(should_retry=True)
    assert (job.status, job.retry_count) == ("retrying", 1)
    assert journal_of(job) == [("running", "failed"), ("failed", "retrying")]
    assert row_of(job)["retry_count"] == 1


def test_failing_without_retries_left_stays_failed() -> None:
    job = job_in("running", max_retries=1, retry_count=1)
    job.mark_as_failed(should_retry=True)
    assert job.status == row_of(job)["status"] == "failed"


def test_actor_and_reason_are_recorded_once_and_never_taken_for_a_raw_update() -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice", reason="because")
    by_sql(job, "running")
    assert list(job.transitions.values_list("actor", "reason")) == [("alice", "because"), ("", "")]


def test_a_prepared_transition_is_written_by_the_next_save() -> None:
    job = job_in("pending")
    job.transition_to("queued", save=False, actor="alice")
    assert row_of(job)["status"] == "pending"
    job.save()
    assert row_of(job)["queued_at"] is not None
    assert job.transitions.get().actor == "alice"


def test_a_refused_save_leaves_the_transaction_usable() -> None:
    job = job_in("queued")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_running()
    stale.status = "cancelled"
    with pytest.raises(StaleTransition, match="found running"):
        stale.save()
    assert ContainerJob.objects.count() == 1


def test_a_stale_instance_of_an_earlier_run_cannot_finish_a_later_one() -> None:
    job = job_in("running")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_failed(should_retry=True)
    job.mark_as_queued()
    job.mark_as_running()
    with pytest.raises(StaleTransition, match="has moved since"):
        stale.mark_as_completed()
    assert row_of(job)["status"] == "running"


def test_a_stale_save_of_another_field_reverts_nothing() -> None:
    job = job_in("pending")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_queued(reason="now")
    stale.name = "renamed"
    stale.save()
    row = row_of(job)
    assert (row["name"], row["status"], row["status_changed_reason"]) == ("renamed", "queued", "now")
    assert row["queued_at"] == job.queued_at


def test_after_a_rollback_the_next_call_says_what_is_so() -> None:
    job = job_in("queued")
    with transaction.atomic():
        job.mark_as_running()
        transaction.set_rollback(True)
    with pytest.raises(StaleTransition, match="found queued"):
        job.mark_as_completed()
    job.refresh_from_db()
    job.mark_as_running()


def test_a_bulk_transition_names_the_refused() -> None:
    moved, refused = job_in("queued"), job_in("completed")
    result = ContainerJob.objects.all().transition_to("cancelled", reason="cleanup", actor="alice")
    assert result.changed == 1
    assert result.refused == {refused.pk: "completed"}
    assert moved.transitions.get().reason == "cleanup"


def test_one_statement_per_transition_and_per_save(django_assert_num_queries: Callable) -> None:
    job = job_in("pending")
    with django_assert_num_queries(1):
        job.mark_as_queued()
    job.status = "running"
    with django_assert_num_queries(1):
        job.save()
    with django_assert_num_queries(1):
        list(ContainerJob.objects.only("name"))


def test_the_signal_comes_on_commit_only(django_capture_on_commit_callbacks: Callable) -> None:
    from container_manager.signals import job_transitioned

    seen: list[tuple[str, str]] = []

    def receive(transitions: tuple, **kwargs: object) -> None:
        seen.extend((t.source, t.target) for t in transitions)

    job_transitioned.connect(receive)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            job = job_in("pending")
            job.mark_as_queued()
            ContainerJob.objects.all().transition_to("cancelled")
            assert seen == []
    finally:
        job_transitioned.disconnect(receive)
    assert seen == [("pending", "queued"), ("queued", "cancelled")]


@pytest.mark.django_db(transaction=True)
def test_the_async_twins_do_the_same() -> None:
    job = job_in("pending")
    async_to_sync(job.amark_as_queued)()
    async_to_sync(job.atransition_to)("running")
    with pytest.raises(InvalidTransition):
        async_to_sync(job.amark_as_queued)()
    assert async_to_sync(ContainerJob.objects.all().atransition_to)("completed").changed == 1
    assert row_of(job)["status"] == "completed"

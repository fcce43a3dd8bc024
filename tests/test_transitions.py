"""All 49 pairs of statuses, by each of the four ways to change one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, models, transaction
from django.db.models import Count
from django.db.transaction import TransactionManagementError
from django.test.utils import isolate_apps
from django.utils import timezone
from django.utils.translation import gettext_lazy

from container_manager.models import ContainerJob
from container_manager.signals import job_transitioned
from container_manager.statemachine import (
    Effect,
    InvalidTransition,
    MissingRow,
    StaleTransition,
    UnknownState,
    UnsavedInstance,
)
from container_manager.statemachine.machine import machine_of
from tests.machines.models import REVIEW, Article

from .jobs import LEGAL, PAIRS, STATUSES, THEN, columns_for, job_in, journal_of, row_of

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
@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
def test_each_legal_transition_passes_and_is_journaled(
    source: str, target: str, way: Callable[[ContainerJob, str], None]
) -> None:
    job = job_in(source)
    way(job, target)
    assert row_of(job)["status"] == target
    assert journal_of(job) == [(source, target)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "target"), [p for p in PAIRS if p not in LEGAL and p[0] != p[1]])
def test_each_illegal_transition_is_refused_and_changes_nothing(
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
def test_the_same_status_is_refused_by_transition_to_and_ignored_by_save(status: str) -> None:
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
def test_the_error_for_an_unknown_status_names_all_statuses(bad: object) -> None:
    job = job_in("pending")
    with pytest.raises(UnknownState) as refusal:
        job.transition_to(bad)
    assert set(refusal.value.states) == set(STATUSES)
    assert all(status in str(refusal.value) for status in STATUSES)
    with pytest.raises(UnknownState):
        ContainerJob.objects.all().transition_to(bad)
    assert job.status == row_of(job)["status"] == "pending"


def test_a_transition_of_an_unsaved_instance_is_refused() -> None:
    with pytest.raises(UnsavedInstance, match="save"):
        ContainerJob(command="true").transition_to("queued")


def test_a_transition_of_a_deleted_row_raises_missing_row() -> None:
    job = job_in("pending")
    ContainerJob.objects.all().delete()
    with pytest.raises(MissingRow, match="no such row"):
        job.transition_to("queued")
    assert job.status == "pending"


def test_mark_as_queued_keeps_the_schedule_that_a_job_was_created_with() -> None:
    later = timezone.now() + timedelta(hours=1)
    job = job_in("pending", scheduled_for=later)
    job.mark_as_queued()
    assert row_of(job)["scheduled_for"] == later
    assert not job.is_ready_to_launch


def test_mark_as_queued_of_a_retry_starts_it_now_or_when_it_is_told() -> None:
    later, latest = timezone.now() + timedelta(hours=1), timezone.now() + timedelta(hours=2)
    now, then = job_in("retrying", scheduled_for=later), job_in("retrying", scheduled_for=later)
    now.mark_as_queued(actor="alice", reason="at once")
    then.mark_as_queued(latest)
    assert (row_of(now)["status"], row_of(now)["scheduled_for"]) == ("queued", None)
    assert now.transitions.get().reason == "at once"
    assert row_of(then)["scheduled_for"] == latest
    assert list(ContainerJob.objects.ready()) == [now]


def test_mark_as_failed_with_a_retry_is_journaled_as_two_transitions() -> None:
    job = job_in("running")
    job.mark_as_failed(should_retry=True)
    assert (job.status, job.retry_count) == ("retrying", 1)
    assert journal_of(job) == [("running", "failed"), ("failed", "retrying")]
    assert row_of(job)["retry_count"] == 1


def test_mark_as_failed_without_retries_left_stays_failed() -> None:
    job = job_in("running", max_retries=1, retry_count=1)
    job.mark_as_failed(should_retry=True)
    assert job.status == row_of(job)["status"] == "failed"


def test_actor_and_reason_are_journaled_once_and_not_reused_for_a_raw_update() -> None:
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


def test_a_stale_instance_from_an_earlier_run_cannot_complete_a_later_run() -> None:
    job = job_in("running")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_failed(should_retry=True)
    job.mark_as_queued()
    job.mark_as_running()
    with pytest.raises(StaleTransition, match="has moved since"):
        stale.mark_as_completed()
    assert row_of(job)["status"] == "running"


def test_saving_another_field_of_a_stale_instance_does_not_revert_the_status() -> None:
    job = job_in("pending")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_queued(reason="now")
    stale.name = "renamed"
    stale.save()
    row = row_of(job)
    assert (row["name"], row["status"], row["status_changed_reason"]) == ("renamed", "queued", "now")
    assert row["queued_at"] == job.queued_at


def test_after_a_rollback_the_next_transition_reports_the_status_in_the_row() -> None:
    job = job_in("queued")
    with transaction.atomic():
        job.mark_as_running()
        transaction.set_rollback(True)
    with pytest.raises(StaleTransition, match="found queued"):
        job.mark_as_completed()
    job.refresh_from_db()
    job.mark_as_running()


def test_a_bulk_transition_reports_the_refused_rows() -> None:
    moved, refused = job_in("queued"), job_in("completed")
    result = ContainerJob.objects.all().transition_to("cancelled", reason="cleanup", actor="alice")
    assert result.changed == 1
    assert result.refused == {refused.pk: "completed"}
    assert moved.transitions.get().reason == "cleanup"


def test_a_transition_or_a_save_takes_one_statement(django_assert_num_queries: Callable) -> None:
    job = job_in("pending")
    with django_assert_num_queries(1):
        job.mark_as_queued()
    job.status = "running"
    with django_assert_num_queries(1):
        job.save()
    with django_assert_num_queries(1):
        list(ContainerJob.objects.only("name"))


def test_the_transition_signal_is_sent_on_commit_only(django_capture_on_commit_callbacks: Callable) -> None:
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
def test_a_transition_is_logged_when_it_is_committed(caplog: pytest.LogCaptureFixture) -> None:
    job = job_in("pending")
    with caplog.at_level(logging.INFO, logger="container_manager.statemachine"):
        with transaction.atomic():
            job.mark_as_running()
            transaction.set_rollback(True)
        with transaction.atomic():
            ContainerJob.objects.all().transition_to("queued")
            assert caplog.messages == []
    assert caplog.messages == [f"ContainerJob {job.pk}: pending -> queued"]


@pytest.mark.django_db(transaction=True)
def test_the_async_methods_do_the_same_as_the_sync_ones() -> None:
    job = job_in("pending")
    async_to_sync(job.amark_as_queued)()
    async_to_sync(job.atransition_to)("running")
    with pytest.raises(InvalidTransition):
        async_to_sync(job.amark_as_queued)()
    assert async_to_sync(ContainerJob.objects.all().atransition_to)("completed").changed == 1
    assert row_of(job)["status"] == "completed"


def test_a_transition_after_an_unsaved_prepared_one_starts_from_the_row() -> None:
    job = job_in("failed")
    job.transition_to("retrying", save=False)
    job.transition_to("cancelled")
    assert journal_of(job) == [("failed", "cancelled")]
    job = job_in("pending")
    job.transition_to("queued", save=False)
    job.transition_to("running")
    job.mark_as_completed()
    assert journal_of(job) == [("pending", "running"), ("running", "completed")]


def test_an_increment_starts_from_the_row_and_not_from_the_attribute() -> None:
    job = job_in("failed", retry_count=1)
    job.retry_count = 7
    job.transition_to("retrying")
    assert job.retry_count == row_of(job)["retry_count"] == 2


def test_an_increment_works_for_a_deferred_column() -> None:
    job = ContainerJob.objects.only("status").get(pk=job_in("failed", retry_count=1).pk)
    job.transition_to("retrying")
    assert job.retry_count == row_of(job)["retry_count"] == 2


def test_a_prepared_transition_that_the_row_does_not_allow_is_refused_by_save() -> None:
    job = job_in("pending")
    for target in ("queued", "running", "completed"):
        job.transition_to(target, save=False)
    with pytest.raises(InvalidTransition, match="pending -> completed"):
        job.save()
    assert (row_of(job)["status"], journal_of(job)) == ("pending", [])


def test_refresh_from_db_discards_a_prepared_transition() -> None:
    job = job_in("pending")
    job.transition_to("queued", save=False, actor="alice")
    job.refresh_from_db()
    job.status = "queued"
    job.save()
    assert row_of(job)["queued_at"] is not None
    assert job.transitions.get().actor == ""


def test_refreshing_only_the_status_makes_a_stale_instance_usable() -> None:
    job = job_in("pending")
    watcher = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_queued()
    watcher.refresh_from_db(fields=["status"])
    watcher.mark_as_running()
    assert row_of(job)["status"] == "running"


def test_an_instance_whose_transition_was_rolled_back_is_stale() -> None:
    mine = job_in("queued")
    theirs = ContainerJob.objects.get(pk=mine.pk)
    with transaction.atomic():
        mine.mark_as_running()
        transaction.set_rollback(True)
    theirs.mark_as_running()
    with pytest.raises(StaleTransition, match="has moved since"):
        mine.mark_as_completed()
    mine.status = "completed"
    with pytest.raises(StaleTransition):
        mine.save()
    theirs.mark_as_completed()


@pytest.mark.parametrize("way", [by_update, by_sql])
def test_raw_updates_that_return_to_the_same_status_make_instances_stale(
    way: Callable[[ContainerJob, str], None],
) -> None:
    job = job_in("running")
    stale = ContainerJob.objects.get(pk=job.pk)
    for target in ("failed", "retrying", "queued", "running"):
        way(job, target)
    with pytest.raises(StaleTransition, match="has moved since"):
        stale.mark_as_completed()


@pytest.mark.parametrize("way", [by_update, by_sql])
def test_a_raw_update_clears_actor_and_reason_in_the_row_and_the_journal(
    way: Callable[[ContainerJob, str], None],
) -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice", reason="because")
    # Long ago: SQLite's triggers know milliseconds, and two steps may be in one.
    ContainerJob.objects.filter(pk=job.pk).update(status_changed_at=THEN)
    way(job, "running")
    row, written = row_of(job), job.transitions.get(to_status="running")
    assert (row["status_changed_by"], row["status_changed_reason"]) == ("", "")
    assert row["status_changed_at"] != THEN
    assert (written.actor, written.reason, written.at) == ("", "", row["status_changed_at"])


@pytest.mark.parametrize("status", ["running", "queued"])
def test_saving_an_instance_of_a_deleted_row_does_not_insert_it(status: str) -> None:
    job = job_in("queued")
    ContainerJob.objects.all().delete()
    job.status = status
    with pytest.raises(MissingRow, match="no such row"):
        job.save()
    assert not ContainerJob.objects.exists()


def test_a_copy_with_a_new_primary_key_is_inserted_and_moves_independently() -> None:
    job = job_in("pending")
    job.mark_as_queued()
    copied = ContainerJob.objects.get(pk=job.pk)
    copied.pk = None
    copied.save()
    copied.mark_as_running()
    assert (row_of(job)["status"], row_of(copied)["status"]) == ("queued", "running")
    assert journal_of(copied) == [("queued", "running")]


def test_an_instance_given_the_key_of_another_row_is_checked_against_that_row() -> None:
    mine, other = job_in("queued"), job_in("running")
    mine.pk = other.pk
    mine.status = "cancelled"
    mine.save()
    assert journal_of(other) == [("running", "cancelled")]
    mine.pk = job_in("completed").pk
    mine.status = "running"
    with pytest.raises(InvalidTransition, match="completed -> running"):
        mine.save()


def test_saving_a_deferred_status_is_still_checked_against_the_map() -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice")
    partial = ContainerJob.objects.defer("status").get(pk=job.pk)
    partial.status = "cancelled"
    partial.save()
    assert list(job.transitions.values_list("to_status", "actor")) == [("queued", "alice"), ("cancelled", "")]
    assert partial.status_changed_at == row_of(job)["status_changed_at"]
    partial = ContainerJob.objects.defer("status").get(pk=job.pk)
    partial.status = "queued"
    with pytest.raises(InvalidTransition, match="cancelled -> queued"):
        partial.save()


def test_an_instance_is_usable_after_saving_a_deferred_status() -> None:
    job = job_in("pending")
    partial = ContainerJob.objects.only("name").get(pk=job.pk)
    partial.status, partial.queued_at = "queued", timezone.now()
    partial.save()
    partial.mark_as_running(actor="alice")
    assert list(job.transitions.values_list("to_status", "actor")) == [("queued", ""), ("running", "alice")]


def test_a_stale_lifecycle_column_loaded_without_the_status_is_refused() -> None:
    job = job_in("running")
    partial = ContainerJob.objects.only("exit_code").get(pk=job.pk)
    ContainerJob.objects.update(exit_code=3)
    partial.exit_code = 0
    with pytest.raises(StaleTransition, match="has changed since it was loaded"):
        partial.save()
    assert row_of(job)["exit_code"] == 3


def test_after_bulk_update_its_instances_are_usable_and_others_are_stale() -> None:
    job = job_in("queued")
    job.mark_as_running(actor="alice")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.status = "failed"
    ContainerJob.objects.bulk_update([job], ["status"])
    assert job.status_changed_by == row_of(job)["status_changed_by"] == ""
    with pytest.raises(StaleTransition):
        stale.mark_as_completed()
    job.transition_to("retrying")
    assert journal_of(job)[1:] == [("running", "failed"), ("failed", "retrying")]


@pytest.mark.parametrize(
    "select",
    [
        lambda rows: rows.filter(transitions=None),
        lambda rows: rows.filter(attempts=None, transitions=None).distinct(),
        lambda rows: rows.annotate(runs=Count("attempts")).filter(runs=0),
        lambda rows: rows.order_by("attempts__number"),
        lambda rows: rows.order_by("attempts__number")[:9],
        lambda rows: rows.order_by("name")[:9],
        lambda rows: rows.filter(name="a") | rows.exclude(name="a"),
        lambda rows: rows.filter(name="a").union(rows.filter(name="")),
        lambda rows: rows.select_for_update().filter(name__in=["a", ""]),
    ],
    ids=["join", "distinct", "group", "order", "slice_of_join", "slice", "or", "union", "locked"],
)
def test_a_bulk_transition_works_for_any_kind_of_queryset(select: Callable) -> None:
    moved, refused = job_in("pending", name="a"), job_in("completed")
    result = select(ContainerJob.objects.all()).transition_to("queued")
    assert (result.changed, result.refused) == (1, {refused.pk: "completed"})
    assert journal_of(moved) == [("pending", "queued")]


def test_a_reason_may_be_a_lazy_translation() -> None:
    job = job_in("pending")
    job.mark_as_queued(reason=gettext_lazy("Yes"))
    ContainerJob.objects.all().transition_to("running", reason=gettext_lazy("No"))
    assert list(job.transitions.values_list("reason", flat=True)) == ["Yes", "No"]


def test_effects_in_a_second_table_are_refused() -> None:
    with isolate_apps("tests.machines"):

        class Reviewed(Article):
            transition_effects = {REVIEW: {"asked_at": Effect.NOW}}
            asked_at = models.DateTimeField(null=True)

            class Meta:
                app_label = "machines"

        with pytest.raises(ImproperlyConfigured, match="asked_at"):
            machine_of(Reviewed)


@pytest.mark.django_db(transaction=True)
def test_a_transition_with_autocommit_off_is_refused_instead_of_sending_its_signal_early() -> None:
    seen: list[object] = []

    def receive(transitions: tuple, **kwargs: object) -> None:
        seen.extend(transitions)

    job = job_in("pending")
    job_transitioned.connect(receive)
    transaction.set_autocommit(False)
    try:
        with pytest.raises(TransactionManagementError, match="on_commit"):
            job.mark_as_queued()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
        job_transitioned.disconnect(receive)
    assert (seen, row_of(job)["status"]) == ([], "pending")


@pytest.mark.parametrize("status", STATUSES)
def test_a_job_is_finished_when_no_run_is_to_come(status: str) -> None:
    assert job_in(status).is_finished is (status in ("completed", "failed", "cancelled"))


def test_a_failed_job_is_finished_unless_it_is_to_be_retried() -> None:
    jobs = [job_in("running", max_retries=1) for _ in range(2)]
    for job, should_retry in zip(jobs, (False, True), strict=True):
        job.mark_as_failed(should_retry=should_retry)
    assert [(job.status, job.is_finished, job.is_terminal) for job in jobs] == [
        ("failed", True, False),
        ("retrying", False, False),
    ]

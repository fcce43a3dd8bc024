"""The paths by which other libraries let a status leak, one test each."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import Case, F, Value, When

from container_manager.models import ContainerJob, JobTransition
from container_manager.statemachine import StaleTransition, TransitionError
from tests.machines.models import DRAFT, PUBLISHED, REVIEW, Article

from .jobs import THEN, job_in, journal_of, row_of

pytestmark = pytest.mark.django_db
REFUSED = (TransitionError, IntegrityError)
JOBS = "container_manager_containerjob"


def key(job: ContainerJob) -> object:
    return ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)


def sql(text: str, *values: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text, values)


def update_fields(job: ContainerJob) -> None:
    job.status = "completed"
    job.save(update_fields=["status"])


def bulk_update_loaded(job: ContainerJob) -> None:
    loaded = ContainerJob.objects.get(pk=job.pk)
    loaded.status, loaded.launched_at, loaded.completed_at = "completed", THEN, THEN
    ContainerJob.objects.bulk_update([loaded], ["status", "launched_at", "completed_at"])


def bulk_update_fresh(job: ContainerJob) -> None:
    fresh = ContainerJob(pk=job.pk, status="completed", launched_at=THEN, completed_at=THEN)
    ContainerJob.objects.bulk_update([fresh], ["status", "launched_at", "completed_at"])


def deferred(job: ContainerJob) -> None:
    partial = ContainerJob.objects.defer("status").get(pk=job.pk)
    partial.status, partial.launched_at, partial.completed_at = "completed", THEN, THEN
    partial.save()


def only(job: ContainerJob) -> None:
    partial = ContainerJob.objects.only("name").get(pk=job.pk)
    partial.status, partial.launched_at, partial.completed_at = "completed", THEN, THEN
    partial.save()


def by_key(job: ContainerJob) -> None:
    ContainerJob(pk=job.pk, command="true", status="completed", launched_at=THEN, completed_at=THEN).save()


def forced_update(job: ContainerJob) -> None:
    other = ContainerJob(pk=job.pk, command="true", status="completed", launched_at=THEN, completed_at=THEN)
    other.save(force_update=True)


def update_or_create(job: ContainerJob) -> None:
    ContainerJob.objects.update_or_create(pk=job.pk, defaults={"status": "completed"})


def get_or_create(job: ContainerJob) -> None:
    found, _created = ContainerJob.objects.get_or_create(pk=job.pk)
    found.status = "completed"
    found.save()


def pickled(job: ContainerJob) -> None:
    thawed = pickle.loads(pickle.dumps(job))  # noqa: S301  # our own bytes
    thawed.status = "completed"
    thawed.save()


def copied(job: ContainerJob) -> None:
    twin = copy.copy(job)
    twin.status = "completed"
    twin.save()


def case_expression(job: ContainerJob) -> None:
    status = Case(When(pk=job.pk, then=Value("completed")), default=F("status"))
    ContainerJob.objects.update(status=status, launched_at=THEN, completed_at=THEN)


def f_expression(job: ContainerJob) -> None:
    ContainerJob.objects.filter(pk=job.pk).update(name="completed")
    ContainerJob.objects.update(status=F("name"), launched_at=THEN, completed_at=THEN)


def expression_on_instance(job: ContainerJob) -> None:
    job.status = Value("completed")
    job.save()


def upsert(job: ContainerJob) -> None:
    twin = ContainerJob(pk=job.pk, command="true", status="completed", launched_at=THEN, completed_at=THEN)
    fields = ["status", "launched_at", "completed_at"]
    unique = ["id"] if connection.features.supports_update_conflicts_with_target else None
    ContainerJob.objects.bulk_create([twin], update_conflicts=True, update_fields=fields, unique_fields=unique)


def trailing_space(job: ContainerJob) -> None:
    sql(f"UPDATE {JOBS} SET status = %s WHERE id = %s", "pending ", key(job))


def upper_case(job: ContainerJob) -> None:
    sql(f"UPDATE {JOBS} SET status = %s WHERE id = %s", "PENDING", key(job))


def null(job: ContainerJob) -> None:
    sql(f"UPDATE {JOBS} SET status = NULL WHERE id = %s", key(job))


def another_key(job: ContainerJob) -> None:
    other = job_in("completed")
    ContainerJob.objects.filter(pk=job.pk).delete()
    sql(f"UPDATE {JOBS} SET id = %s WHERE id = %s", key(job), key(other))


def related_manager(job: ContainerJob) -> None:
    ContainerJob.objects.filter(transitions=None).update(status="completed", launched_at=THEN, completed_at=THEN)


PATHS = [
    update_fields, bulk_update_loaded, bulk_update_fresh, deferred, only, by_key, forced_update, update_or_create,
    get_or_create, pickled, copied, case_expression, f_expression, expression_on_instance, upsert, trailing_space,
    upper_case, null, another_key, related_manager,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_no_path_leaks(path: Callable[[ContainerJob], None]) -> None:
    job = job_in("pending")
    with pytest.raises(REFUSED), transaction.atomic():
        path(job)
    assert row_of(job)["status"] == "pending"
    assert journal_of(job) == []


@pytest.mark.parametrize("target", ["completed", "queued"])
def test_replace_may_not_change_a_status(target: str) -> None:
    if connection.vendor == "postgresql":
        verbs: list[str] = []
    else:
        verbs = ["REPLACE"] if connection.vendor == "mysql" else ["REPLACE", "INSERT OR REPLACE"]
    job, names = job_in("pending"), [f.column for f in ContainerJob._meta.concrete_fields]
    for verb in verbs:
        twin = ContainerJob(pk=job.pk, command="true", status=target, queued_at=THEN)
        if target == "completed":
            twin.queued_at, twin.launched_at, twin.completed_at = None, THEN, THEN
        fields = ContainerJob._meta.concrete_fields
        values = [f.get_db_prep_save(getattr(twin, f.attname), connection) for f in fields]
        marks = ", ".join(["%s"] * len(values))
        with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
            sql(f"{verb} INTO {JOBS} ({', '.join(names)}) VALUES ({marks})", *values)
    assert row_of(job)["status"] == "pending"


@pytest.mark.parametrize("status", ["bogus", "PENDING", "pending "])
def test_no_row_starts_in_an_unknown_status(status: str) -> None:
    with pytest.raises(TransitionError):
        ContainerJob.objects.create(command="true", status=status)
    with pytest.raises(IntegrityError), transaction.atomic():
        ContainerJob.objects.bulk_create([ContainerJob(command="true", status=status)])
    assert ContainerJob.objects.count() == 0


@pytest.mark.parametrize("status", ["queued", "running", "completed", "failed", "retrying"])
def test_no_row_starts_without_the_timestamps_of_its_status(status: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ContainerJob.objects.create(command="true", status=status)


def test_an_update_that_ignores_errors_changes_nothing() -> None:
    job = job_in("pending")
    verb = {"sqlite": "UPDATE OR IGNORE", "mysql": "UPDATE IGNORE"}.get(connection.vendor, "UPDATE")
    try:
        with transaction.atomic():
            sql(f"{verb} {JOBS} SET status = 'completed', launched_at = %s, completed_at = %s", *["2026-01-01"] * 2)
    except IntegrityError:
        pass
    assert row_of(job)["status"] == "pending"
    assert journal_of(job) == []


def test_a_form_is_told_and_never_crashes() -> None:
    job = job_in("pending")
    job.status = "completed"
    with pytest.raises(ValidationError) as refusal:
        job.full_clean()
    assert "invalid_transition" in {error.code for error in refusal.value.error_dict["status"]}


def test_a_restore_by_fixture_keeps_every_status_and_the_journal() -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice")
    job.mark_as_cancelled()
    saved = serializers.serialize("json", [*ContainerJob.objects.all(), *JobTransition.objects.all()])
    ContainerJob.objects.all().delete()
    for restored in serializers.deserialize("json", saved):
        restored.save()
    assert row_of(job)["status"] == "cancelled"
    assert journal_of(job) == [("pending", "queued"), ("queued", "cancelled")]


def test_a_stale_bulk_update_cannot_revive_a_finished_job() -> None:
    job = job_in("running")
    stale = ContainerJob.objects.get(pk=job.pk)
    job.mark_as_completed()
    stale.status = "cancelled"
    with pytest.raises(IntegrityError), transaction.atomic():
        ContainerJob.objects.bulk_update([stale], ["status"])
    with pytest.raises(StaleTransition):
        stale.save()
    assert row_of(job)["status"] == "completed"


@pytest.mark.django_db(databases=["default", "other"])
def test_another_database_has_its_own_truth() -> None:
    job = job_in("queued")
    ContainerJob.objects.using("other").create(pk=job.pk, command="true")
    job.status, job.launched_at, job.queued_at = "running", THEN, None
    job.save(using="other")
    assert ContainerJob.objects.using("other").get(pk=job.pk).status == "running"
    done = job_in("running")
    ContainerJob.objects.using("other").create(pk=done.pk, command="true")
    done.status, done.completed_at = "completed", THEN
    with pytest.raises(REFUSED), transaction.atomic(using="other"):
        done.save(using="other")
    assert ContainerJob.objects.using("other").get(pk=done.pk).status == "pending"


def test_integer_states_under_another_name_are_held_alike() -> None:
    article = Article.objects.create(title="x")
    article.transition_to(REVIEW)
    Article.objects.create(title="y")
    with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
        sql("UPDATE machines_article SET stage = %s WHERE stage = %s", PUBLISHED, DRAFT)
    with pytest.raises(IntegrityError, match="Invalid status"), transaction.atomic():
        Article.objects.create(title="born finished", stage=PUBLISHED)
    stale = Article.objects.get(pk=article.pk)
    article.transition_to(PUBLISHED)
    assert article.published_at is not None
    with pytest.raises(StaleTransition):
        stale.transition_to(DRAFT)
    with pytest.raises(TransitionError, match=f"{PUBLISHED} -> {DRAFT}"):
        Article(pk=article.pk, stage=DRAFT).save()

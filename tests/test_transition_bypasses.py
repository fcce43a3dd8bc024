"""The paths by which other libraries let a status leak, one test each."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import serializers
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, models, transaction
from django.db.models import Case, F, Value, When
from django.test.utils import isolate_apps, override_settings
from django.utils.connection import ConnectionDoesNotExist

from container_manager.models import ContainerJob, JobTransition
from container_manager.statemachine import InvalidTransition, MissingRow, StaleTransition, TransitionError, restoring
from tests.machines.models import (
    DRAFT,
    PUBLISHED,
    REVIEW,
    Article,
    Door,
    Order,
    Parcel,
    Review,
    Shelf,
    Shipment,
    ShortArticle,
)

from .jobs import STATUSES, THEN, job_in, journal_of, row_of
from .prerequisites import require
from .primary_replica import PrimaryReplicaRouter

pytestmark = pytest.mark.django_db
REFUSED = (TransitionError, IntegrityError)
JOBS = "container_manager_containerjob"


def key(job: ContainerJob) -> object:
    return ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)


def sql(text: str, *values: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text, values)


def assigned(job: ContainerJob) -> None:
    job.status = "completed"
    job.save()


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


def deep_copied(job: ContainerJob) -> None:
    twin = copy.deepcopy(job)
    twin.status = "completed"
    twin.save()


def joined_update(job: ContainerJob) -> None:
    ContainerJob.objects.filter(transitions=None).update(status="completed", launched_at=THEN, completed_at=THEN)


def base_manager(job: ContainerJob) -> None:
    ContainerJob._base_manager.update(status="completed", launched_at=THEN, completed_at=THEN)


def raw_save(job: ContainerJob) -> None:
    job.status, job.launched_at, job.completed_at = "completed", THEN, THEN
    job.save_base(raw=True)


def asynchronous_save(job: ContainerJob) -> None:
    job.status = "completed"
    async_to_sync(job.asave)()


def asynchronous_update(job: ContainerJob) -> None:
    rows = ContainerJob.objects.filter(pk=job.pk)
    async_to_sync(rows.aupdate)(status="completed", launched_at=THEN, completed_at=THEN)


def asynchronous_bulk_update(job: ContainerJob) -> None:
    job.status, job.launched_at, job.completed_at = "completed", THEN, THEN
    async_to_sync(ContainerJob.objects.all().abulk_update)([job], ["status", "launched_at", "completed_at"])


def forged_load(job: ContainerJob) -> None:
    names = [field.attname for field in ContainerJob._meta.concrete_fields]
    running = job_in("running")
    believed = {**vars(running), "id": job.pk}
    forged = ContainerJob.from_db("default", names, [believed[name] for name in names])
    forged.mark_as_completed()


def read_from_a_replica(job: ContainerJob) -> None:
    names = [field.attname for field in ContainerJob._meta.concrete_fields]
    twin = ContainerJob.from_db("replica", names, [vars(job)[name] for name in names])
    twin.status = "completed"
    with override_settings(DATABASE_ROUTERS=[PrimaryReplicaRouter()]):
        twin.save()


PATHS = [
    assigned, update_fields, bulk_update_loaded, bulk_update_fresh, deferred, only, by_key, forced_update,
    update_or_create, get_or_create, pickled, copied, deep_copied, case_expression, f_expression,
    expression_on_instance, upsert, trailing_space, upper_case, null, another_key, joined_update,
    base_manager, raw_save, asynchronous_save, asynchronous_update, asynchronous_bulk_update, forged_load,
    read_from_a_replica,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_no_way_around_transition_to_makes_an_illegal_transition(path: Callable[[ContainerJob], None]) -> None:
    job = job_in("pending")
    with pytest.raises(REFUSED), transaction.atomic():
        path(job)
    assert row_of(job)["status"] == "pending"
    assert journal_of(job) == []


@pytest.mark.parametrize("target", ["completed", "queued"])
def test_replace_cannot_change_a_status(target: str) -> None:
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
def test_no_row_is_created_in_an_unknown_status(status: str) -> None:
    with pytest.raises(TransitionError):
        ContainerJob.objects.create(command="true", status=status)
    with pytest.raises(IntegrityError), transaction.atomic():
        ContainerJob.objects.bulk_create([ContainerJob(command="true", status=status)])
    assert ContainerJob.objects.count() == 0


@pytest.mark.parametrize("status", ["queued", "running", "completed", "failed", "retrying"])
def test_no_row_is_created_without_the_timestamps_of_its_status(status: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ContainerJob.objects.create(command="true", status=status)


def test_an_illegal_update_or_ignore_changes_nothing() -> None:
    job = job_in("pending")
    verb = {"sqlite": "UPDATE OR IGNORE", "mysql": "UPDATE IGNORE"}.get(connection.vendor, "UPDATE")
    try:
        with transaction.atomic():
            sql(f"{verb} {JOBS} SET status = 'completed', launched_at = %s, completed_at = %s", *["2026-01-01"] * 2)
    except IntegrityError:
        pass
    assert row_of(job)["status"] == "pending"
    assert journal_of(job) == []


def test_full_clean_reports_an_illegal_transition_as_a_validation_error() -> None:
    job = job_in("pending")
    job.status = "completed"
    with pytest.raises(ValidationError) as refusal:
        job.full_clean()
    assert "invalid_transition" in {error.code for error in refusal.value.error_dict["status"]}


def test_deserializing_a_dump_restores_statuses_and_journal() -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice")
    job.mark_as_cancelled()
    saved = serializers.serialize("json", [*ContainerJob.objects.all(), *JobTransition.objects.all()])
    ContainerJob.objects.all().delete()
    for restored in serializers.deserialize("json", saved):
        restored.save()
    assert row_of(job)["status"] == "cancelled"
    assert journal_of(job) == [("pending", "queued"), ("queued", "cancelled")]


def test_a_bulk_update_of_a_stale_instance_cannot_reopen_a_finished_job() -> None:
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
def test_a_save_to_another_database_is_checked_against_the_row_there() -> None:
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


def test_integer_states_in_a_field_of_another_name_are_enforced() -> None:
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


def test_a_case_insensitive_collation_does_not_weaken_the_map() -> None:
    if connection.vendor == "postgresql":
        ignore_case_of_doors()
    door = Door.objects.create()
    for state in ("OPEN", "Shut"):
        with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
            Door.objects.update(state=state)
        with pytest.raises(IntegrityError, match="Invalid status"), transaction.atomic():
            Door.objects.bulk_create([Door(state=state)])
    door.transition_to("shut")
    door.refresh_from_db()
    assert (door.state, door.keeper) == ("shut", "night")


def ignore_case_of_doors() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')")
        require("A PostgreSQL with ICU", cursor.fetchone()[0])
    guard = Door._meta.constraints[0]
    with connection.schema_editor() as editor:
        editor.remove_constraint(Door, guard)
        editor.execute("CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        editor.execute('ALTER TABLE machines_door ALTER COLUMN state TYPE varchar(10) COLLATE "no_case"')
        editor.add_constraint(Door, guard)


@pytest.mark.parametrize("many", [{"ignore_conflicts": True}, {"update_conflicts": True}], ids=str)
def test_a_bulk_create_that_conflicts_with_a_row_does_not_change_its_status(many: dict[str, bool]) -> None:
    job = job_in("queued")
    twin = ContainerJob(pk=job.pk, command="true", name="twin", status="running", launched_at=THEN)
    options: dict[str, Any] = dict(many)
    if "update_conflicts" in many:
        options["update_fields"] = ["name"]
        options["unique_fields"] = ["id"] if connection.features.supports_update_conflicts_with_target else None
    # On SQLite a trigger cannot tell this from INSERT OR REPLACE, and refuses it.
    refused = pytest.raises(IntegrityError) if connection.vendor == "sqlite" else nullcontext()
    with refused, transaction.atomic():
        ContainerJob.objects.bulk_create([twin], **options)
    assert (row_of(job)["status"], journal_of(job)) == ("queued", [])
    if connection.vendor != "sqlite":
        with pytest.raises(StaleTransition, match="found queued"):
            twin.mark_as_completed()


def test_a_bulk_create_that_ignores_a_conflict_with_the_same_status_changes_nothing() -> None:
    job = job_in("queued")
    twin = ContainerJob(pk=job.pk, command="false", status="queued", queued_at=THEN)
    ContainerJob.objects.bulk_create([twin], ignore_conflicts=True)
    assert row_of(job)["command"] == "true"
    twin.mark_as_running()
    assert journal_of(job) == [("queued", "running")]


def test_a_related_manager_cannot_leave_the_map() -> None:
    shelf = Shelf.objects.create()
    article = shelf.articles.create(title="x")
    with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
        shelf.articles.update(stage=PUBLISHED)
    with pytest.raises(REFUSED), transaction.atomic():
        shelf.articles.update_or_create(pk=article.pk, defaults={"stage": PUBLISHED})
    with pytest.raises(IntegrityError), transaction.atomic():
        shelf.articles.create(stage=PUBLISHED)
    assert shelf.articles.all().transition_to(PUBLISHED).refused == {article.pk: DRAFT}
    assert shelf.articles.update(stage=REVIEW) == 1
    assert shelf.articles.all().transition_to(PUBLISHED).changed == 1
    shelf.articles.clear()
    article.refresh_from_db()
    assert (article.stage, article.shelf) == (PUBLISHED, None)


def test_saving_a_new_instance_with_an_existing_key_is_checked_against_the_map() -> None:
    article = Article.objects.create(title="x")
    other = Article(pk=article.pk, title="y", stage=REVIEW)
    other.save()
    other.transition_to(PUBLISHED)
    with pytest.raises(InvalidTransition, match=f"{PUBLISHED} -> {REVIEW}"):
        Article(pk=article.pk, stage=REVIEW).save()
    assert Article.objects.get().stage == PUBLISHED


def test_a_forced_update_of_an_unloaded_row_is_journaled_without_an_actor() -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice")
    other = ContainerJob(pk=job.pk, command="true", status="running", launched_at=THEN)
    other.save(force_update=True)
    assert list(job.transitions.values_list("to_status", "actor")) == [("queued", "alice"), ("running", "")]
    with pytest.raises(StaleTransition):
        job.mark_as_cancelled()
    other.mark_as_completed(actor="bob")
    assert job.transitions.last().actor == "bob"


@pytest.mark.parametrize("model", [ShortArticle, Review], ids=["proxy", "child"])
def test_a_proxy_or_child_model_is_held_to_the_same_map(model: type[Article]) -> None:
    article = model.objects.create(title="x")
    refused = [
        lambda: article.transition_to(PUBLISHED),
        lambda: save_as(article, PUBLISHED),
        lambda: model.objects.filter(pk=article.pk).update(stage=PUBLISHED),
        lambda: model.objects.bulk_update([save_nothing(article, PUBLISHED)], ["stage"]),
        lambda: model(pk=article.pk, stage=PUBLISHED).save(),
    ]
    for act in refused:
        with pytest.raises(REFUSED), transaction.atomic():
            act()
        article.refresh_from_db()
        assert article.stage == DRAFT
    assert model.objects.all().transition_to(PUBLISHED).refused == {article.pk: DRAFT}
    legal = [
        lambda: article.transition_to(REVIEW),
        lambda: save_as(article, DRAFT),
        lambda: model.objects.filter(pk=article.pk).update(stage=REVIEW),
        lambda: model.objects.bulk_update([save_nothing(article, DRAFT)], ["stage"]),
        lambda: article.transition_to(REVIEW),
        lambda: model.objects.all().transition_to(PUBLISHED),
    ]
    for act, stage in zip(legal, [REVIEW, DRAFT, REVIEW, DRAFT, REVIEW, PUBLISHED], strict=True):
        act()
        article.refresh_from_db()
        assert article.stage == Article.objects.get().stage == stage
    assert article.published_at is not None


def save_as(article: Article, stage: int) -> None:
    article.stage = stage
    article.save()


def save_nothing(article: Article, stage: int) -> Article:
    article.stage = stage
    return article


def test_saving_a_stale_child_model_changes_neither_of_its_tables() -> None:
    review = Review.objects.create(verdict="")
    stale = Review.objects.get()
    review.transition_to(REVIEW)
    stale.stage, stale.verdict = REVIEW, "good"
    with pytest.raises(StaleTransition), transaction.atomic():
        stale.save()
    review.refresh_from_db()
    assert (review.stage, review.verdict) == (REVIEW, "")


with isolate_apps("tests.machines"):

    class UrgentJob(ContainerJob):
        class Meta:
            app_label = "machines"
            proxy = True

    class RenderJob(ContainerJob):
        job = models.OneToOneField(ContainerJob, models.CASCADE, parent_link=True, primary_key=True, related_name="+")
        frames = models.PositiveIntegerField(default=1)

        class Meta:
            app_label = "machines"


@pytest.fixture
def _render_jobs() -> Iterator[None]:
    with connection.schema_editor() as editor:
        editor.create_model(RenderJob)
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(RenderJob)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_render_jobs")
@pytest.mark.parametrize("model", [UrgentJob, RenderJob], ids=["proxy", "child"])
def test_a_proxy_or_child_model_of_jobs_keeps_the_journal(model: type[ContainerJob]) -> None:
    job = model.objects.create(command="true")
    job.mark_as_queued(actor="alice")
    job.status = "running"
    job.save()
    with pytest.raises(IntegrityError):
        model.objects.filter(pk=job.pk).update(status="pending", queued_at=None, launched_at=None)
    with pytest.raises(InvalidTransition):
        job.mark_as_queued()
    stale = model.objects.get(pk=job.pk)
    job.mark_as_failed(should_retry=True)
    stale.status = "completed"
    with pytest.raises(StaleTransition, match="found retrying"):
        stale.save()
    model.objects.filter(pk=job.pk).update(status="queued", queued_at=THEN, launched_at=None)
    assert model.objects.all().transition_to("cancelled", actor="bob").changed == 1
    job.refresh_from_db()
    assert (job.status, job.retry_count, job.status_changed_by) == ("cancelled", 1, "bob")
    steps = JobTransition.objects.filter(job_id=job.pk).values_list("to_status", "actor")
    assert list(steps) == [
        ("queued", "alice"), ("running", ""), ("failed", ""), ("retrying", ""), ("queued", ""), ("cancelled", "bob"),
    ]  # fmt: skip


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))])  # noqa: S301
def test_a_transition_of_a_copied_instance_makes_the_original_stale(
    copier: Callable[[ContainerJob], ContainerJob],
) -> None:
    job = job_in("queued")
    twin = copier(job)
    twin.mark_as_running(actor="twin")
    assert job.status == "queued"
    with pytest.raises(StaleTransition, match="found running"):
        job.mark_as_running()
    assert [(step.to_status, step.actor) for step in job.transitions.all()] == [("running", "twin")]


def test_of_two_instances_that_save_the_same_transition_the_second_is_stale() -> None:
    job = job_in("queued")
    other = ContainerJob.objects.get(pk=job.pk)
    job.status = other.status = "running"
    job.save()
    with pytest.raises(StaleTransition, match="found running"):
        other.save()
    assert journal_of(job) == [("queued", "running")]


def test_saving_to_an_unknown_database_raises_djangos_error() -> None:
    job = job_in("pending")
    with pytest.raises(ConnectionDoesNotExist):
        job.save(using="nonexistent")
    job.mark_as_queued()


@pytest.mark.django_db(databases=["default", "other"])
def test_a_transition_in_a_database_without_the_row_raises_missing_row() -> None:
    job = job_in("pending")
    job._state.db = "other"
    with pytest.raises(MissingRow, match="database 'other' has no such row"):
        job.transition_to("queued")
    assert job.status == "pending"


@pytest.mark.django_db(databases=["default", "other"])
def test_a_second_database_enforces_and_journals_too() -> None:
    here = job_in("pending")
    there = ContainerJob.objects.using("other").create(pk=here.pk, command="true")
    there.mark_as_queued(actor="alice")
    there.status = "running"
    there.save()
    with pytest.raises(IntegrityError), transaction.atomic(using="other"):
        ContainerJob.objects.using("other").update(status="queued", queued_at=THEN, launched_at=None)
    assert ContainerJob.objects.using("other").transition_to("completed").changed == 1
    steps = JobTransition.objects.using("other").values_list("to_status", flat=True)
    assert list(steps) == ["queued", "running", "completed"]
    assert (row_of(here)["status"], journal_of(here)) == ("pending", [])


@pytest.mark.django_db(databases=["default", "other"])
def test_an_instance_copied_to_another_database_moves_there_and_not_here() -> None:
    job = job_in("pending")
    job.mark_as_queued(actor="alice")
    job.save(using="other")
    job.mark_as_running(actor="bob")
    assert list(job.transitions.using("other").values_list("from_status", "actor")) == [("queued", "bob")]
    assert row_of(job)["status"] == "queued"
    job.status = "failed"
    with pytest.raises(InvalidTransition, match="queued -> failed"):
        job.save(using="default")


@pytest.fixture
def fixture_file(tmp_path: Path) -> Path:
    """Dump a job in every status, each with the journal of how it came there."""
    for status in STATUSES:
        job_in(status, name=status)
    ContainerJob.objects.get(name="queued").mark_as_cancelled(actor="alice", reason="because")
    path = tmp_path / "jobs.json"
    call_command("dumpdata", "container_manager", output=str(path), verbosity=0)
    return path


def everything() -> tuple[list[Any], list[Any]]:
    """Return what the database holds of statuses and journal, but for times, which JSON keeps to the millisecond."""
    marks = ("status", "status_version", "status_changed_by", "status_changed_reason")
    jobs = ContainerJob.objects.order_by("pk").values_list("pk", "name", *marks)
    steps = JobTransition.objects.order_by("pk").values_list("pk", "job", "from_status", "to_status", "actor", "reason")
    return list(jobs), list(steps)


def test_loaddata_restores_what_dumpdata_wrote(fixture_file: Path) -> None:
    before = everything()
    ContainerJob.objects.all().delete()
    call_command("loaddata", str(fixture_file), verbosity=0)
    assert everything() == before
    call_command("loaddata", str(fixture_file), verbosity=0)
    assert everything() == before


def test_loaddata_over_a_job_that_has_moved_on_is_refused(fixture_file: Path) -> None:
    ContainerJob.objects.get(name="running").mark_as_completed()
    before = everything()
    with pytest.raises(REFUSED, match="completed -> running"):
        call_command("loaddata", str(fixture_file), verbosity=0)
    assert everything() == before


Write = Callable[[models.Model, str, str], object]


def write_by_save(row: models.Model, name: str, state: str) -> None:
    setattr(row, name, state)
    row.save()


def write_by_save_of_one_field(row: models.Model, name: str, state: str) -> None:
    setattr(row, name, state)
    row.save(update_fields=[name])


def write_by_update(row: models.Model, name: str, state: str) -> None:
    type(row)._base_manager.filter(pk=row.pk).update(**{name: state})


def write_by_bulk_update(row: models.Model, name: str, state: str) -> None:
    setattr(row, name, state)
    type(row)._default_manager.bulk_update([row], [name])  # type: ignore[list-item]  # of this model


def write_by_raw_sql(row: models.Model, name: str, state: str) -> None:
    sql(f"UPDATE {row._meta.db_table} SET {name} = %s WHERE id = %s", state, row.pk)


def write_with_a_deferred_state(row: models.Model, name: str, state: str) -> None:
    partial = type(row)._base_manager.defer(name).get(pk=row.pk)
    setattr(partial, name, state)
    partial.save()


def restored_parcel() -> Parcel:
    with restoring(using="default"):
        return Parcel.objects.create(state="lost", stops=["a"], shelf=Shelf.objects.create(name="s"))


@pytest.mark.parametrize(
    "write",
    [
        write_by_save,
        write_by_save_of_one_field,
        write_by_update,
        write_by_bulk_update,
        write_by_raw_sql,
        write_with_a_deferred_state,
    ],
)
@pytest.mark.parametrize(
    ("create", "name", "target"),
    [
        (Order.objects.create, "payment", "refunded"),
        (Order.objects.create, "shipping", "sent"),
        (Shipment.objects.create, "shipping", "sent"),
        (Shipment.objects.create, "payment", "refunded"),
        (lambda: Parcel.objects.create(labels={"a": 1}), "state", "elsewhere"),
        (restored_parcel, "state", "packed"),
    ],
    ids=[
        "first machine",
        "second machine",
        "second by proxy",
        "first by proxy",
        "foreign key and JSON",
        "restored row",
    ],
)
def test_no_way_around_a_transition_works_for_two_machines_guarded_values_or_restored_rows(
    create: Callable[[], models.Model], name: str, target: str, write: Write
) -> None:
    row = create()
    before = type(row)._base_manager.filter(pk=row.pk).values().get()
    with pytest.raises(REFUSED), transaction.atomic():
        write(row, name, target)
    assert type(row)._base_manager.filter(pk=row.pk).values().get() == before

"""What the state machine relies on in Django that is private, so that a new version that changes it is noticed here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import DatabaseError, connection, models, transaction
from django.db.models.functions import Upper
from django.test.utils import CaptureQueriesContext, isolate_apps

from container_manager.models import ContainerJob
from container_manager.statemachine import InvalidTransition, MissingRow, StaleTransition
from container_manager.statemachine.guard import can_be_direct
from tests.machines.models import DRAFT, PUBLISHED, REVIEW, Article, Shelf

from .jobs import job_in, row_of

VERSION = django.VERSION[:2]
HOOK_5 = ["self", "base_qs", "using", "pk_val", "values", "update_fields", "forced_update"]
HOOK_6 = [*HOOK_5, "returning_fields"]

Calls = list[tuple[dict[str, Any], Any]]


def verbs(queries: CaptureQueriesContext) -> list[str]:
    return [query["sql"].split()[0] for query in queries]


@pytest.fixture
def watched() -> Iterator[tuple[type[Shelf], Calls]]:
    """Give a proxy of a model of Django's own kind, and what its hook was called with and returned."""
    calls: Calls = []
    with isolate_apps("tests.machines"):

        class Watched(Shelf):
            class Meta:
                proxy = True
                app_label = "machines"

            def _do_update(self, *args: Any, **kwargs: Any) -> Any:
                names = HOOK_5 if VERSION < (6, 0) else HOOK_6
                done = super()._do_update(*args, **kwargs)
                calls.append(({**dict(zip(names[1:], args, strict=False)), **kwargs}, done))
                return done

        yield Watched, calls


def test_this_version_is_one_that_was_looked_at() -> None:
    assert VERSION in {(5, 2), (6, 0), (6, 1)}


def test_the_hook_has_the_signature_that_is_overridden() -> None:
    names = list(inspect.signature(models.Model._do_update).parameters)
    assert names == (HOOK_5 if VERSION < (6, 0) else HOOK_6)
    ours = inspect.signature(ContainerJob._do_update).parameters
    assert [*ours][:7] == HOOK_5
    assert ours["rest"].kind is inspect.Parameter.VAR_POSITIONAL


@pytest.mark.django_db
def test_save_goes_through_the_hook_with_a_queryset_and_all_positional(watched: tuple[type[Shelf], Calls]) -> None:
    shelf, calls = watched
    known = Shelf.objects.create(name="old")
    again = shelf.objects.get(pk=known.pk)
    again.name = "new"
    again.save()
    [(call, done)] = calls
    assert list(call) == (HOOK_5 if VERSION < (6, 0) else HOOK_6)[1:]
    assert (call["using"], call["pk_val"], call["update_fields"]) == ("default", known.pk, None)
    assert [(field.attname, value) for field, _, value in call["values"]] == [("name", "new")]
    assert call["base_qs"].filter(pk=known.pk).get().name == "new"
    assert bool(done)
    assert isinstance(done, bool) == (VERSION < (6, 0))


@pytest.mark.django_db
def test_after_a_hook_that_matched_nothing_save_goes_on_to_insert(watched: tuple[type[Shelf], Calls]) -> None:
    """So the override must raise by itself."""
    shelf, calls = watched
    with CaptureQueriesContext(
        connection,
    ) as queries:
        shelf(pk=12345, name="new").save()
    assert [bool(done) for _, done in calls] == [False]
    assert verbs(queries) == ["UPDATE", "INSERT"]


@pytest.mark.django_db
@pytest.mark.parametrize("options", [{}, {"force_update": True}, {"update_fields": ["status"]}])
def test_a_guarded_update_that_matched_nothing_does_not_go_on_to_insert(options: dict[str, Any]) -> None:
    job = job_in("pending")
    stale, gone = ContainerJob.objects.get(pk=job.pk), ContainerJob.objects.get(pk=job.pk)
    job.mark_as_cancelled()
    stale.status = "queued"
    with pytest.raises(StaleTransition), CaptureQueriesContext(connection) as queries:
        stale.save(**options)
    assert "INSERT" not in verbs(queries)
    assert row_of(job)["status"] == "cancelled"
    ContainerJob.objects.filter(pk=job.pk).delete()
    gone.status = "queued"
    with pytest.raises(MissingRow), CaptureQueriesContext(connection) as queries:
        gone.save(**options)
    assert "INSERT" not in verbs(queries)
    assert not ContainerJob.objects.exists()


@pytest.mark.django_db
def test_a_row_the_instance_never_knew_is_guarded_too_and_inserted_if_it_is_not_there() -> None:
    known = Article.objects.create(title="known")
    known.transition_to(REVIEW)
    known.transition_to(PUBLISHED)
    with pytest.raises(InvalidTransition), CaptureQueriesContext(connection) as queries:
        Article(pk=known.pk, title="unknown", stage=DRAFT).save()
    assert "INSERT" not in verbs(queries)
    Article.objects.all().delete()
    Article(pk=known.pk, title="unknown", stage=DRAFT).save()
    assert Article.objects.get().title == "unknown"


@pytest.mark.django_db
def test_a_save_that_changes_nothing_but_an_expression_reads_it_back_as_the_version_does() -> None:
    article = Article.objects.create(title="loud")
    article.title = Upper("title")
    article.save()
    found = Article.objects.get(pk=article.pk)
    assert (found.title, found.stage) == ("LOUD", 10)
    if VERSION >= (6, 0):
        assert article.title == "LOUD"
    article.refresh_from_db()
    article.title = "soft"
    article.save()
    assert Article.objects.get(pk=article.pk).title == "soft"


@pytest.mark.django_db
@pytest.mark.parametrize("options", [{"force_update": True}, {"update_fields": ["title"]}])
def test_what_django_itself_refuses_stays_its_own_error(options: dict[str, Any]) -> None:
    with pytest.raises(DatabaseError, match="did not affect any rows"), transaction.atomic():
        Article(pk=12345, title="x").save(**options)
    assert not Article.objects.exists()


def test_a_field_with_sql_of_its_own_is_left_to_the_orm() -> None:
    """Django 6.1 has renamed the method that tells such a field."""
    words = ArrayField(models.CharField(max_length=5))
    assert not can_be_direct([(words, ["a"])])
    assert not can_be_direct([(models.CharField(), Upper("name"))])
    assert can_be_direct([(models.CharField(), "a"), (models.JSONField(), {})])

"""`initial` holds how rows are born, and lets restores through; `db_default` and historical models are no way around."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, models, transaction
from django.db.migrations.state import ModelState, ProjectState

from container_manager.statemachine import restoring
from container_manager.statemachine.checks import check_triggers
from container_manager.statemachine.queryset import StateMachineQuerySet

from .initial_states.models import Crate, Parcel
from .machines.models import DRAFT, PUBLISHED, REVIEW, Article

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])
ALIASES = ["default", "other"]


def states(model: type[models.Model] = Parcel, using: str = "default") -> list[str]:
    return list(model._base_manager.using(using).order_by("pk").values_list("status", flat=True))


def assert_held(using: str = "default") -> None:
    """Assert that the guard of initial states is what it was, in this connection and in the schema."""
    for model in (Parcel, Crate):
        with pytest.raises(IntegrityError, match="for a new row"), transaction.atomic(using=using):
            model._base_manager.using(using).create(status="sent")
    assert check_triggers(None, databases=[using]) == []


def test_a_new_row_that_is_past_its_initial_state_is_refused() -> None:
    assert_held()
    assert states() == []


def test_while_restoring_a_row_can_be_inserted_in_any_state_of_the_map() -> None:
    with restoring():
        Parcel.objects.create(status="sent")
        Parcel.objects.bulk_create([Parcel(status="delivered")])
        Crate.objects.create(status="delivered")
    assert states() == ["sent", "delivered"]
    assert_held()


def test_while_restoring_an_unknown_state_is_refused() -> None:
    with pytest.raises(IntegrityError), restoring():
        Crate.objects.create(status="lost")
    assert_held()


def test_while_restoring_a_row_still_cannot_change_along_a_missing_edge() -> None:
    parcel = Parcel.objects.create()
    with restoring():
        with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
            Parcel.objects.update(status="delivered")
        parcel.transition_to("sent")
    assert states() == ["sent"]


@pytest.mark.skipif(connection.vendor == "postgresql", reason="PostgreSQL has no REPLACE.")
def test_while_restoring_a_replace_cannot_change_a_state() -> None:
    crate = Crate.objects.create()
    with pytest.raises(IntegrityError), restoring(), connection.cursor() as cursor:
        cursor.execute(f"REPLACE INTO initial_states_crate (id, status) VALUES ({crate.pk}, 'delivered')")
    assert states(Crate) == ["packed"]


def test_an_error_ends_restoring() -> None:
    with pytest.raises(IntegrityError), restoring():
        Parcel.objects.bulk_create([Parcel(pk=1, status="sent"), Parcel(pk=1, status="sent")])
    assert states() == []
    assert_held()


def test_a_rollback_without_an_error_ends_restoring() -> None:
    with restoring():
        Parcel.objects.create(status="sent")
        transaction.set_rollback(True)
    assert states() == []
    assert_held()


def test_an_inner_restoring_does_not_end_the_outer() -> None:
    with restoring():
        with restoring():
            Parcel.objects.create(status="sent")
        Parcel.objects.create(status="sent")
        with pytest.raises(ZeroDivisionError), restoring():
            raise ZeroDivisionError
        Parcel.objects.create(status="sent")
    assert states() == ["sent"] * 3
    assert_held()


def test_restoring_ends_within_an_outer_transaction() -> None:
    with transaction.atomic():
        with restoring():
            Parcel.objects.create(status="sent")
        with pytest.raises(IntegrityError), transaction.atomic():
            Parcel.objects.create(status="sent")
    assert_held()


def test_restoring_one_database_leaves_the_other_guarded() -> None:
    with restoring(using="other"):
        assert_held("default")
        Parcel.objects.using("other").create(status="sent")
    assert_held("other")


def test_restoring_works_while_rows_are_read() -> None:
    with restoring():
        Parcel.objects.bulk_create([Parcel(status="sent") for _ in range(300)])
    for parcel in Parcel.objects.iterator(chunk_size=2):
        with restoring():
            Crate.objects.create(status=parcel.status)
    assert len(states(Crate)) == 300


def test_saving_to_another_database_needs_an_initial_state_unless_restoring() -> None:
    parcel = Parcel.objects.create()
    parcel.transition_to("sent")
    with pytest.raises(IntegrityError, match="for a new row"):
        parcel.save(using="other")
    with restoring(using="other"):
        parcel.save(using="other")
    assert states(using="other") == ["sent"]
    assert_held("other")


def dump() -> str:
    with restoring():
        Parcel.objects.create(status="delivered")
        Article.objects.create(stage=PUBLISHED, title="News")
        Article.objects.create(stage=REVIEW)
    Article.objects.create(stage=DRAFT)
    out = io.StringIO()
    call_command("dumpdata", "initial_states.Parcel", "machines", stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("using", ALIASES)
def test_loaddata_restores_rows_in_every_state(using: str, tmp_path: Any) -> None:
    fixture = tmp_path / "fixture.json"
    fixture.write_text(dump())
    call_command("flush", interactive=False)
    call_command("loaddata", str(fixture), database=using, verbosity=0)
    assert states(using=using) == ["delivered"]
    assert list(Article.objects.using(using).order_by("pk").values_list("stage", flat=True)) == [
        PUBLISHED,
        REVIEW,
        DRAFT,
    ]
    assert_held(using)
    # Once more over the same rows.
    call_command("loaddata", str(fixture), database=using, verbosity=0)
    assert len(states(using=using)) == 1


def test_a_fixture_does_not_take_a_row_along_a_missing_edge(tmp_path: Any) -> None:
    fixture = tmp_path / "fixture.json"
    fixture.write_text(dump())
    call_command("flush", interactive=False)
    Parcel.objects.create(pk=serializers.json.json.loads(fixture.read_text())[0]["pk"])
    with pytest.raises(ValueError, match="packed -> delivered"):
        call_command("loaddata", str(fixture), verbosity=0)
    assert states() == ["packed"]


def test_serialized_rollback_restores_rows_in_every_state() -> None:
    dump()
    # As serialize_db_to_string() does for apps with migrations.
    text = serializers.serialize("json", [*Parcel.objects.all(), *Article.objects.all()])
    Parcel.objects.all().delete()
    Article.objects.all().delete()
    connections["default"].creation.deserialize_db_from_string(text)
    assert Article.objects.count() == 3
    assert states() == ["delivered"]
    assert_held()


def test_a_fixture_of_a_model_without_the_base_needs_restoring() -> None:
    with restoring():
        text = serializers.serialize("json", [Crate.objects.create(status="sent")])
    Crate.objects.all().delete()
    with pytest.raises(IntegrityError):
        next(serializers.deserialize("json", text)).save()
    with restoring():
        next(serializers.deserialize("json", text)).save()
    assert states(Crate) == ["sent"]
    assert_held()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL's replication.")
def test_replication_may_copy_rows_in_every_state_but_not_change_them() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("INSERT INTO initial_states_crate (status) VALUES ('delivered')")
        with pytest.raises(IntegrityError, match="Invalid transition"), transaction.atomic():
            cursor.execute("UPDATE initial_states_crate SET status = 'packed'")
        with pytest.raises(IntegrityError, match="for a new row"), transaction.atomic():
            cursor.execute("INSERT INTO initial_states_crate (status) VALUES ('lost')")
    assert_held()


def historical(model: type[models.Model]) -> Any:
    state = ProjectState()
    state.add_model(ModelState.from_model(model))
    return state.apps.get_model("initial_states", model.__name__)


def test_a_data_migration_can_create_rows_in_bulk() -> None:
    manager = historical(Parcel).objects
    assert manager.use_in_migrations
    rows = manager.bulk_create([manager.model(status="packed"), manager.model()])
    for row in rows:
        row.status = "sent"
    assert manager.bulk_update(rows, ["status"]) == 2
    assert states() == ["sent", "sent"]


@pytest.mark.parametrize("model", [Parcel, Crate])
def test_a_bulk_transition_without_the_base_is_refused_before_anything_is_written(model: type[models.Model]) -> None:
    bare = historical(model) if model is Parcel else model
    rows: Any = StateMachineQuerySet(bare)
    rows.bulk_create([bare()])
    with pytest.raises(ImproperlyConfigured, match=f"initial_states.{model.__name__} is no StateMachineModel"):
        rows.transition_to("sent")
    with pytest.raises(ImproperlyConfigured, match=f"initial_states.{model.__name__} is no StateMachineModel"):
        asyncio.run(rows.atransition_to("sent"))
    assert states(model) == ["packed"]


@pytest.mark.parametrize("manager", ["objects", "_default_manager"])
def test_a_bulk_transition_needs_an_explicit_queryset(manager: str) -> None:
    Parcel.objects.create()
    for name in ("transition_to", "atransition_to"):
        assert not hasattr(getattr(Parcel, manager), name)
    assert states() == ["packed"]
    assert Parcel.objects.all().transition_to("sent").changed == 1


def test_a_new_row_has_the_state_of_its_db_default() -> None:
    parcel = Parcel.objects.create()
    assert (parcel.status, parcel.sendings) == ("packed", 0)
    assert states() == ["packed"]


@pytest.mark.parametrize("way", ["transition_to", "save", "bulk"])
def test_a_row_that_was_created_with_a_db_default_can_move(way: str) -> None:
    if way == "bulk":
        parcel = Parcel.objects.bulk_create([Parcel(pk=1)])[0]
        Parcel.objects.filter(pk=1).transition_to("sent")
        parcel.refresh_from_db()
    else:
        parcel = Parcel.objects.create()
        if way == "save":
            parcel.status = "sent"
            parcel.save()
        else:
            assert parcel.can_transition_to("sent")
            parcel.transition_to("sent")
    assert (parcel.status, parcel.sendings) == ("sent", 1)
    parcel.refresh_from_db()
    assert (parcel.status, parcel.sendings) == ("sent", 1)


def test_a_row_that_was_created_in_bulk_with_a_db_default_knows_its_state() -> None:
    [parcel] = Parcel.objects.bulk_create([Parcel(pk=1)])
    parcel.transition_to("sent")
    assert (parcel.status, parcel.sendings) == ("sent", 1)


def test_an_unsaved_instance_has_the_state_of_its_db_default() -> None:
    parcel = Parcel()
    assert parcel.can_transition_to("sent")
    assert not parcel.can_transition_to("delivered")
    parcel.full_clean()
    parcel.transition_to("sent", save=False)
    assert (parcel.status, parcel.sendings) == ("sent", 1)

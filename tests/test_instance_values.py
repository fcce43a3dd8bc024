"""What an instance holds after a transition or a save is what its row holds, whatever kind of field it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import models
from django.db.models.signals import post_save
from django.test.utils import isolate_apps

from container_manager.statemachine import StaleTransition
from container_manager.statemachine.machine import machine_of
from container_manager.statemachine.model import StateMachineModel
from tests.machines.models import Parcel, Shelf

pytestmark = pytest.mark.django_db
LONG_AGO = datetime(2001, 2, 3, tzinfo=UTC)


def row(parcel: Parcel) -> dict[str, Any]:
    return Parcel.objects.filter(pk=parcel.pk).values().get()


def test_a_saved_foreign_key_in_the_lifecycle_fields_can_be_set_back() -> None:
    first, second = Shelf.objects.create(), Shelf.objects.create()
    parcel = Parcel.objects.create(origin=first)
    parcel.origin = second
    parcel.save(update_fields=["origin"])
    parcel.origin = first
    parcel.save()
    assert row(parcel)["origin_id"] == first.pk


def test_a_refreshed_foreign_key_in_the_lifecycle_fields_is_what_the_next_save_compares_with() -> None:
    first, second = Shelf.objects.create(), Shelf.objects.create()
    parcel = Parcel.objects.create(origin=first)
    Parcel.objects.update(origin=second)
    parcel.refresh_from_db(fields=["origin"])
    parcel.origin = first
    parcel.save()
    assert row(parcel)["origin_id"] == first.pk


def test_a_bulk_updated_foreign_key_in_the_lifecycle_fields_can_be_set_back() -> None:
    first, second = Shelf.objects.create(), Shelf.objects.create()
    parcel = Parcel.objects.create(origin=first)
    parcel.origin = second
    Parcel.objects.bulk_update([parcel], ["origin"])
    parcel.origin = first
    parcel.save()
    assert row(parcel)["origin_id"] == first.pk


@pytest.mark.parametrize("way", ["transition_to", "save", "save=False", "bulk"])
def test_an_effect_on_a_foreign_key_is_written_and_can_be_set_again(way: str) -> None:
    shelf = Shelf.objects.create()
    parcel = Parcel.objects.get(pk=Parcel.objects.create(shelf=shelf).pk)
    assert parcel.shelf == shelf
    if way == "bulk":
        Parcel.objects.all().transition_to("sent")
        parcel.refresh_from_db()
    elif way == "save":
        parcel.state = "sent"
        parcel.save(update_fields=["state"])
    else:
        parcel.transition_to("sent", save=way == "transition_to")
        parcel.save()
    assert (parcel.shelf, row(parcel)["shelf_id"], row(parcel)["state"]) == (None, None, "sent")
    parcel.shelf = shelf
    parcel.save()
    assert row(parcel)["shelf_id"] == shelf.pk


def test_a_foreign_key_that_the_caller_has_set_is_kept_by_a_save_that_changes_the_state() -> None:
    shelf = Shelf.objects.create()
    parcel = Parcel.objects.create()
    parcel.shelf, parcel.state = shelf, "sent"
    parcel.save()
    assert row(parcel)["shelf_id"] == shelf.pk


@pytest.mark.parametrize(("name", "value"), [("shelf", Shelf(pk=5)), ("shelf", 5), ("shelf_id", 5)])
@isolate_apps("tests.machines")
def test_an_effect_may_name_a_related_object_or_the_attribute_of_its_key(name: str, value: object) -> None:
    class Case(StateMachineModel):
        transition_effects = {"sent": {name: value}}
        state = models.CharField(max_length=10)
        shelf = models.ForeignKey(Shelf, models.CASCADE)

        class Meta:
            app_label = "machines"
            constraints = [c for c in Parcel._meta.constraints if c.name == "parcel_state"]

        def __str__(self) -> str:
            return self.state

    assert machine_of(Case).effects["sent"] == {"state": "sent", "shelf_id": 5}


def test_a_value_of_a_lifecycle_field_that_was_changed_in_place_is_written() -> None:
    parcel = Parcel.objects.create(labels={"to": "Rome"})
    parcel.labels["to"] = "Oslo"
    parcel.save()
    parcel.labels["via"] = ["Bonn"]
    parcel.save()
    parcel.labels["via"].append("Kiel")
    parcel.save(update_fields=["labels"])
    assert row(parcel)["labels"] == {"to": "Oslo", "via": ["Bonn", "Kiel"]}
    loaded = Parcel.objects.get()
    loaded.labels["via"].clear()
    loaded.save()
    assert row(parcel)["labels"]["via"] == []


@isolate_apps("tests.machines")
def test_the_loaded_value_of_a_file_bytes_or_unknown_field_does_not_change_with_the_attribute() -> None:
    class OwnField(models.CharField):
        """A field whose values nobody knows."""

    class Case(StateMachineModel):
        lifecycle_fields = ("file", "data", "own", "shelf", "at")
        state = models.CharField(max_length=10)
        file = models.FileField()
        data = models.BinaryField()
        own = OwnField(max_length=10)
        shelf = models.ForeignKey(Shelf, models.CASCADE)
        at = models.DateTimeField()

        class Meta:
            app_label = "machines"
            constraints = [c for c in Parcel._meta.constraints if c.name == "parcel_state"]

        def __str__(self) -> str:
            return self.state

    case = Case(file="a.txt", data=bytearray(b"a"), own=["a"], shelf_id=1, at=LONG_AGO)
    machine = machine_of(Case)
    assert machine.mutable == {"file", "data", "own"}
    assert case.file.name == "a.txt"  # from now on the attribute is an object with a name
    loaded = machine.snapshot(case.__dict__)
    assert {name: loaded[name] for name in machine.mutable} == {name: case.__dict__[name] for name in machine.mutable}
    case.file.name = "b.txt"
    case.data[0:1] = b"b"
    case.own.append("b")
    assert (loaded["file"], loaded["data"], loaded["own"]) == ("a.txt", b"a", ["a"])


def test_a_stale_value_that_was_changed_in_place_is_refused() -> None:
    parcel = Parcel.objects.create()
    stale = Parcel.objects.get()
    parcel.transition_to("sent")
    stale.labels["to"] = "Rome"
    with pytest.raises(StaleTransition):
        stale.save()
    assert row(parcel)["labels"] == {}


@pytest.mark.parametrize("value", [{"a": [1, "é"], "b": None}, None, models.Value(None, models.JSONField())])
def test_a_json_value_that_was_loaded_without_the_state_must_be_as_it_was_loaded(value: Any) -> None:
    Parcel.objects.create(labels=value)
    mine, other = Parcel.objects.defer("state").get(), Parcel.objects.defer("state").get()
    mine.labels = {"mine": 1}
    mine.save()
    other.labels = {"other": 1}
    with pytest.raises(StaleTransition):
        other.save()
    assert row(mine)["labels"] == {"mine": 1}


def test_a_list_as_effect_is_another_list_for_each_instance() -> None:
    first, second = Parcel.objects.create(stops=[1]), Parcel.objects.create(stops=[2])
    first.transition_to("sent")
    first.stops.append("Rome")
    first.save()
    assert row(first)["stops"] == ["Rome"]
    second.transition_to("sent")
    assert (second.stops, row(second)["stops"]) == ([], [])
    third = Parcel.objects.create(stops=[3])
    third.transition_to("sent", save=False)
    assert third.stops == []


def test_generated_fields_are_read_again_after_a_transition_or_a_save() -> None:
    parcel = Parcel.objects.get(pk=Parcel.objects.create().pk)
    assert parcel.is_sent == 0
    parcel.transition_to("sent")
    assert parcel.is_sent == 1
    parcel.state = "packed"
    parcel.save()
    assert parcel.is_sent == 0


@pytest.mark.parametrize("way", ["transition_to", "save", "update_fields", "bulk"])
def test_a_transition_advances_auto_now(way: str) -> None:
    parcel = Parcel.objects.create()
    Parcel.objects.update(changed_at=LONG_AGO)
    parcel.refresh_from_db()
    if way == "transition_to":
        parcel.transition_to("sent")
    elif way == "bulk":
        Parcel.objects.all().transition_to("sent")
        parcel.refresh_from_db()
    else:
        parcel.state = "sent"
        parcel.save(update_fields=["state"] if way == "update_fields" else None)
    assert parcel.changed_at.year > 2001
    assert row(parcel)["changed_at"] == parcel.changed_at


def test_auto_now_does_not_make_a_stale_save_of_the_title_fail() -> None:
    parcel = Parcel.objects.create()
    stale = Parcel.objects.get()
    parcel.transition_to("sent")
    stale.title = "mended"
    stale.save()
    assert (row(parcel)["title"], row(parcel)["state"]) == ("mended", "sent")


def test_post_save_is_sent_by_save_and_not_by_transition_to() -> None:
    parcel, sent = Parcel.objects.create(), []

    def receive(**kwargs: Any) -> None:
        sent.append(kwargs["instance"].state)

    post_save.connect(receive, sender=Parcel)
    try:
        parcel.transition_to("sent")
        parcel.state = "packed"
        parcel.save()
    finally:
        post_save.disconnect(receive, sender=Parcel)
    assert sent == ["packed"]


def test_a_refused_save_leaves_deferred_effects_deferred() -> None:
    parcel = Parcel.objects.create(stops=[1])
    stale = Parcel.objects.defer("stops").get()
    parcel.transition_to("lost")
    stale.state = "sent"
    with pytest.raises(StaleTransition):
        stale.save()
    assert (stale.state, stale.stops) == ("sent", [1])


@pytest.mark.django_db(databases=["default", "other"])
def test_a_bulk_update_of_another_database_does_not_count_as_a_write_of_the_instances_own_row() -> None:
    parcel = Parcel.objects.create()
    Parcel.objects.using("other").create(pk=parcel.pk)
    parcel.state = "sent"
    assert Parcel.objects.using("other").bulk_update([parcel], ["state"]) == 1
    parcel.save()
    assert row(parcel)["state"] == "sent"

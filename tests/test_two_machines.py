"""Two machines on one model: the model moves one, a proxy the other."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, transaction

from container_manager.statemachine import InvalidTransition, StaleTransition, UnknownState
from container_manager.statemachine.machine import machine_of

from .machines.models import Order, Shipment, ShipmentMove

pytestmark = pytest.mark.django_db


def states(order: Order) -> tuple[str, str]:
    return Order.objects.values_list("payment", "shipping").get(pk=order.pk)


def moves() -> list[tuple[str, str, str]]:
    return list(ShipmentMove.objects.order_by("id").values_list("from_status", "to_status", "actor"))


def test_each_class_changes_its_own_machines_state_with_its_own_effects() -> None:
    order = Order.objects.create()
    shipment = Shipment.objects.get(pk=order.pk)
    shipment.transition_to("packed", actor="packer")
    order.transition_to("paid")
    shipment.transition_to("sent", actor="carrier")
    order.refresh_from_db()
    assert states(order) == ("paid", "sent")
    assert order.paid_at is not None
    assert order.sent_at is not None
    assert moves() == [("new", "packed", "packer"), ("packed", "sent", "carrier")]


def test_each_class_knows_only_its_own_states() -> None:
    order = Order.objects.create()
    shipment = Shipment.objects.get(pk=order.pk)
    with pytest.raises(UnknownState):
        order.transition_to("packed")
    with pytest.raises(UnknownState):
        shipment.transition_to("paid")
    with pytest.raises(InvalidTransition):
        shipment.transition_to("sent")
    assert states(order) == ("new", "new")


def test_a_bulk_transition_uses_the_machine_of_its_class() -> None:
    orders = [Order.objects.create() for _ in range(2)]
    Shipment.objects.filter(pk=orders[0].pk).transition_to("packed")
    assert Shipment.objects.all().transition_to("sent").refused == {orders[1].pk: "new"}
    assert Order.objects.all().transition_to("paid").changed == 2
    assert [states(order) for order in orders] == [("paid", "sent"), ("paid", "new")]


def test_a_transition_of_one_machine_does_not_make_instances_of_the_other_stale() -> None:
    order = Order.objects.create()
    shipment = Shipment.objects.get(pk=order.pk)
    order.transition_to("paid")
    shipment.transition_to("packed")
    order.transition_to("refunded")
    assert states(order) == ("refunded", "packed")


def test_a_stale_save_does_not_revert_the_other_machines_state() -> None:
    order = Order.objects.create()
    Shipment.objects.get(pk=order.pk).transition_to("packed")
    order.note = "call first"
    order.save()
    assert states(order) == ("new", "packed")
    assert moves() == [("new", "packed", "")]
    assert Order.objects.get().note == "call first"


def test_a_stale_save_does_not_revert_effects_of_the_other_machines_transition() -> None:
    order = Order.objects.create()
    shipment = Shipment.objects.get(pk=order.pk)
    shipment.transition_to("packed")
    Shipment.objects.get(pk=order.pk).transition_to("sent", actor="carrier")
    Order.objects.get(pk=order.pk).transition_to("paid")
    row = Order.objects.filter(pk=order.pk).values().get()
    assert row["sent_at"] is not None
    order.save()
    shipment.save()
    assert Order.objects.filter(pk=order.pk).values().get() == row


def test_a_stale_save_does_not_move_the_other_machine_along_a_legal_edge() -> None:
    order = Order.objects.create()
    Shipment.objects.get(pk=order.pk).transition_to("packed")
    order.shipping = "lost"
    with pytest.raises(StaleTransition):
        order.save()
    assert states(order) == ("new", "packed")


def test_the_database_refuses_an_illegal_transition_of_the_other_machine() -> None:
    order = Order.objects.create()
    order.shipping = "sent"
    with pytest.raises(IntegrityError), transaction.atomic():
        order.save()
    assert states(order) == ("new", "new")


def test_a_save_through_the_model_moves_the_other_machine_along_an_edge() -> None:
    order = Order.objects.create()
    order.shipping = "packed"
    order.save()
    order.shipping = "sent"
    order.save()
    assert states(order) == ("new", "sent")
    assert moves() == [("new", "packed", ""), ("packed", "sent", "")]


def test_machines_do_not_share_fields() -> None:
    assert machine_of(Order).effects["paid"].keys() == {"payment", "paid_at"}
    assert machine_of(Shipment).field == "shipping"


def test_a_state_field_without_a_constraint_is_an_error() -> None:
    class Lost:
        _meta = Order._meta
        state_field = "note"

    with pytest.raises(ImproperlyConfigured, match="exactly one"):
        machine_of(Lost)  # type: ignore[arg-type]

"""Random histories of models with foreign keys, JSON columns and initial states, and with two machines."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import IntegrityError, models, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from container_manager.statemachine import InvalidTransition, MissingRow, StaleTransition, restoring
from container_manager.statemachine.machine import machine_of
from tests.machines.models import Order, Parcel, Shelf, Shipment, ShipmentMove

GUARDED = ("shelf_id", "stops", "origin_id", "labels")


def must(error: type[Exception] | None, act: Callable[[], object]) -> bool:
    """Do something that must raise just this error, or none; return whether it was done."""
    if error is None:
        act()
        return True
    with pytest.raises(error) as refusal:
        act()
    assert type(refusal.value) is error
    return False


def edges(model: type[models.Model]) -> set[tuple[object, object]]:
    return set(machine_of(model).graph.pairs)


def update(rows: Any, is_legal: bool, **values: object) -> bool:
    """Do a QuerySet.update() of a state, which the database allows or not; return whether it did."""
    if is_legal:
        rows.update(**values)
        return True
    with pytest.raises(IntegrityError), transaction.atomic():
        rows.update(**values)
    return False


@dataclass(slots=True)
class ParcelHandle:
    """An instance, and the values that it was loaded with."""

    parcel: Parcel
    loaded: dict[str, Any]


class ParcelMachine(RuleBasedStateMachine):
    keys = Bundle("keys")
    handles = Bundle("handles")
    states = st.sampled_from(["packed", "sent", "lost"])

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Any, dict[str, Any]] = {}
        self.shelves: list[Any] = []

    def teardown(self) -> None:
        Parcel.objects.all().delete()
        Shelf.objects.all().delete()

    @initialize(target=keys)
    def first(self) -> Any:
        self.shelves = [None, *(Shelf.objects.create(name=name).pk for name in "ab")]
        return self.insert("packed", 1)

    @rule(target=keys, state=states, shelf=st.integers(0, 2))
    def insert(self, state: str, shelf: int) -> Any:
        """Only a restore inserts a row that is past its initial state."""
        values = {"state": state, "title": "", "shelf_id": self.shelves[shelf], "stops": ["here"]}
        if state != "packed":
            with pytest.raises(IntegrityError), transaction.atomic():
                Parcel.objects.create(**values)
        with restoring(using="default"):
            parcel = Parcel.objects.create(**values)
        self.rows[parcel.pk] = {**values, "origin_id": None, "labels": {}}
        return parcel.pk

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        Parcel.objects.filter(pk=key).delete()
        self.rows.pop(key, None)

    @rule(target=handles, key=keys)
    def load(self, key: Any) -> ParcelHandle | None:
        if key not in self.rows:
            return None
        return ParcelHandle(Parcel.objects.get(pk=key), deepcopy(self.rows[key]))

    @rule(handle=handles, to=states)
    def transition(self, handle: ParcelHandle | None, to: str) -> None:
        if handle is None:
            return
        parcel, row = handle.parcel, self.rows.get(handle.parcel.pk)
        error: type[Exception] | None = None
        if (parcel.state, to) not in edges(Parcel):
            error = InvalidTransition
        elif row is None:
            error = MissingRow
        elif row["state"] != parcel.state:
            error = StaleTransition
        if must(error, lambda: parcel.transition_to(to)) and row is not None:
            self.move(row, to)
            self.move(handle.loaded, to)
            if to == "sent":
                assert (parcel.shelf_id, parcel.stops) == (None, [])

    def move(self, row: dict[str, Any], to: str) -> None:
        row["state"] = to
        if to == "sent":
            row.update(shelf_id=None, stops=[])

    @rule(handle=handles, shelf=st.integers(0, 2), stop=st.sampled_from("xy"), label=st.sampled_from("kl"))
    def change_in_memory(self, handle: ParcelHandle | None, shelf: int, stop: str, label: str) -> None:
        if handle is not None:
            handle.parcel.origin_id = self.shelves[shelf]
            handle.parcel.stops.append(stop)
            handle.parcel.labels[label] = stop

    @rule(handle=handles, title=st.sampled_from(["", "t"]))
    def save(self, handle: ParcelHandle | None, title: str) -> None:
        if handle is None:
            return
        parcel, row = handle.parcel, self.rows.get(handle.parcel.pk)
        parcel.title = title
        changed = [name for name in GUARDED if getattr(parcel, name) != handle.loaded[name]]
        error: type[Exception] | None = None
        if row is None:
            error = MissingRow
        elif changed and row["state"] != parcel.state:
            error = StaleTransition
        if must(error, parcel.save) and row is not None:
            now = {name: deepcopy(getattr(parcel, name)) for name in GUARDED}
            row.update(title=title, **{name: deepcopy(now[name]) for name in changed})
            handle.loaded.update(now)

    @rule(key=keys, to=states)
    def update_past_the_instances(self, key: Any, to: str) -> None:
        if key in self.rows and self.rows[key]["state"] != to:
            legal = (self.rows[key]["state"], to) in edges(Parcel)
            if update(Parcel.objects.filter(pk=key), legal, state=to):
                self.rows[key]["state"] = to

    @rule(to=states)
    def move_all(self, to: str) -> None:
        moving = [row for row in self.rows.values() if (row["state"], to) in edges(Parcel)]
        assert Parcel.objects.all().transition_to(to).changed == len(moving)
        for row in moving:
            self.move(row, to)

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        names = ("state", "title", *GUARDED)
        assert {row.pop("pk"): row for row in Parcel.objects.values("pk", *names)} == self.rows


@dataclass(slots=True)
class OrderRow:
    payment: str = "new"
    shipping: str = "new"
    note: str = ""
    moves: list[tuple[str, str, str]] = field(default_factory=list)


class OrderMachine(RuleBasedStateMachine):
    """The machine of payment has no journal, so its instances are compared by state; that of shipping has one."""

    keys = Bundle("keys")
    orders = Bundle("orders")
    shipments = Bundle("shipments")
    payments = st.sampled_from(["new", "paid", "refunded"])
    shippings = st.sampled_from(["new", "packed", "sent", "lost"])

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Any, OrderRow] = {}

    def teardown(self) -> None:
        ShipmentMove.objects.all().delete()
        Order.objects.all().delete()

    @initialize(target=keys)
    def first(self) -> Any:
        return self.create()

    @rule(target=keys)
    def create(self) -> Any:
        order = Order.objects.create()
        self.rows[order.pk] = OrderRow()
        return order.pk

    @rule(target=orders, key=keys)
    def load_order(self, key: Any) -> Order:
        return Order.objects.get(pk=key)

    @rule(target=shipments, key=keys)
    def load_shipment(self, key: Any) -> tuple[Shipment, list[int]]:
        # How many moves the instance knows of, in a list since each instance has its own.
        return Shipment.objects.get(pk=key), [len(self.rows[key].moves)]

    @rule(order=orders, to=payments)
    def pay(self, order: Order, to: str) -> None:
        row, error = self.rows[order.pk], None
        if (order.payment, to) not in edges(Order):
            error = InvalidTransition
        elif row.payment != order.payment:
            error = StaleTransition
        if must(error, lambda: order.transition_to(to)):
            row.payment = to

    @rule(shipment=shipments, to=shippings, actor=st.sampled_from(["", "carol"]))
    def ship(self, shipment: tuple[Shipment, list[int]], to: str, actor: str) -> None:
        instance, known = shipment
        row, error = self.rows[instance.pk], None
        if (instance.shipping, to) not in edges(Shipment):
            error = InvalidTransition
        elif len(row.moves) != known[0]:
            error = StaleTransition
        if must(error, lambda: instance.transition_to(to, actor=actor)):
            self.moved(row, to, actor)
            known[0] = len(row.moves)

    def moved(self, row: OrderRow, to: str, actor: str) -> None:
        row.moves.append((row.shipping, to, actor))
        row.shipping = to

    @rule(order=orders, note=st.sampled_from(["", "n"]))
    def save_a_note_by_an_order(self, order: Order, note: str) -> None:
        order.note = note
        order.save()
        self.rows[order.pk].note = note

    @rule(shipment=shipments, note=st.sampled_from(["", "n"]))
    def save_a_note_by_a_shipment(self, shipment: tuple[Shipment, list[int]], note: str) -> None:
        instance, _known = shipment
        instance.note = note
        instance.save()
        self.rows[instance.pk].note = note

    @rule(key=keys, to=payments)
    def update_payment(self, key: Any, to: str) -> None:
        row = self.rows[key]
        if row.payment != to and update(Order.objects.filter(pk=key), (row.payment, to) in edges(Order), payment=to):
            row.payment = to

    @rule(key=keys, to=shippings)
    def update_shipping(self, key: Any, to: str) -> None:
        row = self.rows[key]
        if row.shipping != to and update(
            Order.objects.filter(pk=key), (row.shipping, to) in edges(Shipment), shipping=to
        ):
            self.moved(row, to, "")

    @rule(to=shippings)
    def ship_all(self, to: str) -> None:
        moving = [row for row in self.rows.values() if (row.shipping, to) in edges(Shipment)]
        assert Shipment.objects.all().transition_to(to, actor="carol").changed == len(moving)
        for row in moving:
            self.moved(row, to, "carol")

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        found = Order.objects.values_list("pk", "payment", "shipping", "note")
        assert {pk: values for pk, *values in found} == {
            pk: [row.payment, row.shipping, row.note] for pk, row in self.rows.items()
        }
        journal: dict[Any, list[tuple[str, str, str]]] = {pk: [] for pk in self.rows}
        for move in ShipmentMove.objects.order_by("pk"):
            journal[move.order_id].append((move.from_status, move.to_status, move.actor))
        assert journal == {pk: row.moves for pk, row in self.rows.items()}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("histories", [10, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("machine", [ParcelMachine, OrderMachine])
def test_random_histories_agree_with_the_model_of_values_and_of_two_machines(
    machine: type[RuleBasedStateMachine], histories: int
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=30,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )

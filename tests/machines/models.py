"""Models that are no jobs, for the tests of the state machine.

An article has integer states, another field name, no journal and a declared initial state.
"""

from __future__ import annotations

from typing import Any

from django.db import connection, models

from container_manager.statemachine import Effect, JournalTable, RowIdField, TransitionConstraint, TransitionJournal
from container_manager.statemachine.model import StateMachineModel
from container_manager.statemachine.queryset import StateMachineQuerySet

DRAFT, REVIEW, PUBLISHED = 10, 20, 30


class Shelf(models.Model):
    """A parent whose manager of articles is a related one."""

    name = models.CharField(max_length=50, default="")

    def __str__(self) -> str:
        return self.name


class ArticleQuerySet(StateMachineQuerySet["Article"]):
    """Articles."""


class Article(StateMachineModel):
    transition_effects = {PUBLISHED: {"published_at": Effect.NOW}}

    shelf = models.ForeignKey(Shelf, models.CASCADE, null=True, related_name="articles")
    title = models.CharField(max_length=50, default="")
    stage = models.IntegerField(default=DRAFT)
    published_at = models.DateTimeField(null=True)

    objects = ArticleQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(
                field="stage",
                transitions={DRAFT: [REVIEW], REVIEW: [DRAFT, PUBLISHED], PUBLISHED: []},
                initial=[DRAFT],
                name="article_stage",
            )
        ]

    def __str__(self) -> str:
        return self.title


class ShortArticle(Article):
    """A proxy."""

    class Meta:
        proxy = True


class Review(Article):
    """A child with a table of its own; its state is in the parent's."""

    verdict = models.CharField(max_length=50, default="")


class DoorQuerySet(StateMachineQuerySet["Door"]):
    """Doors."""


class Keeper(models.TextChoices):
    """Who is at the door."""

    NIGHT = "night", "Night"


class Door(StateMachineModel):
    """States whose column's collation ignores case, where the database has such a collation."""

    transition_effects = {"shut": {"keeper": Keeper.NIGHT}}

    state = models.CharField(
        max_length=10, default="open", db_collation="NOCASE" if connection.vendor == "sqlite" else None
    )
    keeper = models.CharField(max_length=10, default="")

    objects = DoorQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(field="state", transitions={"open": ["shut"], "shut": ["open"]}, name="door_state")
        ]

    def __str__(self) -> str:
        return self.state


class ParcelQuerySet(StateMachineQuerySet["Parcel"]):
    """Parcels."""


class Parcel(StateMachineModel):
    """Guarded columns of every kind: a foreign key, values that can be changed in place, and what databases compute."""

    transition_effects = {"sent": {"shelf": None, "stops": []}}
    lifecycle_fields = ("origin", "labels")

    state = models.CharField(max_length=10, default="packed", choices=[(s, s) for s in ("packed", "sent", "lost")])
    title = models.CharField(max_length=50, default="", blank=True)
    shelf = models.ForeignKey(Shelf, models.CASCADE, null=True, blank=True, related_name="+")
    origin = models.ForeignKey(Shelf, models.CASCADE, null=True, blank=True, related_name="+")
    stops = models.JSONField(default=list, blank=True)
    labels = models.JSONField(default=dict, blank=True, null=True)
    is_sent = models.GeneratedField(
        expression=models.Case(models.When(state="sent", then=1), default=0),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects = ParcelQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(
                field="state",
                transitions={"packed": ["sent", "lost"], "sent": ["packed", "lost"], "lost": []},
                initial=["packed"],
                name="parcel_state",
            )
        ]

    def __str__(self) -> str:
        return self.title


class RecordModified(Exception):
    """The title has changed since."""


class TitleLock(models.Model):
    """An optimistic lock as other packages have it: one more condition in `_do_update`, arguments by name."""

    class Meta:
        abstract = True

    def _do_update(  # noqa: PLR0917  # Django's signature
        self,
        base_qs: Any,
        using: Any,
        pk_val: Any,
        values: Any,
        update_fields: Any,
        forced_update: Any,
        returning_fields: Any = None,
    ) -> Any:
        rows = base_qs.filter(title=self.__dict__.get("_title", self.__dict__["title"]))
        # Django 5.2 has no such argument.
        more = {} if returning_fields is None else {"returning_fields": returning_fields}
        done = super()._do_update(
            rows, using, pk_val, values, update_fields=update_fields, forced_update=forced_update, **more
        )
        if not done:
            raise RecordModified
        return done


class Relay(models.Model):
    """An override that passes all on."""

    class Meta:
        abstract = True

    def _do_update(self, *args: Any, **named: Any) -> Any:
        return super()._do_update(*args, **named)


class RelayedArticle(Relay, Article):
    """The other base comes before the guard."""

    class Meta:
        proxy = True


class LockedArticle(TitleLock, Article):
    """The other base comes before the guard and has a condition of its own."""

    class Meta:
        proxy = True


class LockedQuerySet(StateMachineQuerySet["Locked"]):
    """Rows with an optimistic lock of another kind."""


class Locked(StateMachineModel, TitleLock):
    """The other base comes after the guard."""

    title = models.CharField(max_length=50, default="")
    state = models.CharField(max_length=10, default="open")

    objects = LockedQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(field="state", transitions={"open": ["shut"], "shut": ["open"]}, name="locked_state")
        ]

    def __str__(self) -> str:
        return self.title


class Protected:
    """The descriptor of a field that can be set only once, as django-fsm has it."""

    def __init__(self, field: Any) -> None:
        self.field = field

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance.__dict__[self.field.attname]

    def __set__(self, instance: Any, value: Any) -> None:
        if self.field.attname in instance.__dict__:
            raise AttributeError("The state is protected.")
        instance.__dict__[self.field.attname] = value


class ProtectedField(models.CharField):
    """A text that only the machine changes."""

    descriptor_class = Protected


class SealedQuerySet(StateMachineQuerySet["Sealed"]):
    """Sealed things."""


class Sealed(StateMachineModel):
    """A state that refuses to be set."""

    transition_effects = {"shut": {"seal": "wax"}}

    state = ProtectedField(max_length=10, default="open")
    seal = models.CharField(max_length=10, default="")

    objects = SealedQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(field="state", transitions={"open": ["shut"], "shut": ["open"]}, name="sealed_state")
        ]

    def __str__(self) -> str:
        return self.state


class OrderQuerySet(StateMachineQuerySet["Order"]):
    """Orders."""


class Order(StateMachineModel):
    """Two machines on one model, which have a state of the same name; `Shipment` moves the second."""

    state_field = "payment"
    transition_effects = {"paid": {"paid_at": Effect.NOW}}

    payment = models.CharField(max_length=10, default="new")
    paid_at = models.DateTimeField(null=True)
    shipping = models.CharField(max_length=10, default="new")
    sent_at = models.DateTimeField(null=True)
    shipping_version = models.IntegerField(default=0)
    shipping_changed_at = models.DateTimeField(null=True)
    shipping_changed_by = models.CharField(max_length=50, default="")
    shipping_reason = models.CharField(max_length=50, default="")
    note = models.CharField(max_length=50, default="")

    objects = OrderQuerySet.as_manager()

    class Meta:
        constraints = [
            TransitionConstraint(
                field="payment",
                transitions={"new": ["paid"], "paid": ["refunded"], "refunded": []},
                name="order_payment",
            ),
            TransitionConstraint(
                field="shipping",
                transitions={"new": ["packed", "lost"], "packed": ["sent", "lost"], "sent": [], "lost": []},
                name="order_shipping",
            ),
            TransitionJournal(
                field="shipping",
                table="machines_shipmentmove",
                name="order_shipping_journal",
                subject="order_id",
                version="shipping_version",
                at="shipping_changed_at",
                actor="shipping_changed_by",
                reason="shipping_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.payment}, {self.shipping}"


class Shipment(Order):
    """An order's second machine."""

    state_field = "shipping"
    transition_effects = {"sent": {"sent_at": Effect.NOW}}

    class Meta:
        proxy = True


class ShipmentMove(models.Model):
    """The journal of an order's shipping."""

    id = RowIdField(primary_key=True)
    order = models.ForeignKey(Order, models.CASCADE, related_name="moves", db_constraint=False)
    from_status = models.CharField(max_length=10)
    to_status = models.CharField(max_length=10)
    at = models.DateTimeField()
    actor = models.CharField(max_length=50)
    reason = models.CharField(max_length=50)

    class Meta:
        constraints = [JournalTable(name="shipment_moves")]

    def __str__(self) -> str:
        return self.to_status

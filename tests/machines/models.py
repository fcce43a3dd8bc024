"""Models that are no jobs, for the tests of the state machine.

An article has integer states, another field name, no journal and a declared initial state.
"""

from __future__ import annotations

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

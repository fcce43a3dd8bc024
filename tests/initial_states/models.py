"""Models whose rows start in one state: by a ``db_default``, and without the base class of a state machine."""

from __future__ import annotations

from django.db import models

from container_manager.statemachine import Effect, TransitionConstraint
from container_manager.statemachine.model import StateMachineModel
from container_manager.statemachine.queryset import StateMachineQuerySet

ROUTE = {"packed": ["sent"], "sent": ["packed", "delivered"], "delivered": []}


class ParcelManager(models.Manager.from_queryset(StateMachineQuerySet)):  # type: ignore[misc]  # a class made by a call
    """A manager that data migrations see too."""

    use_in_migrations = True


class Parcel(StateMachineModel):
    """A parcel; only the database knows what a new one is."""

    transition_effects = {"sent": {"sendings": Effect.INCREMENT}}

    status = models.CharField(max_length=10, db_default="packed")
    sendings = models.IntegerField(db_default=0)

    objects = ParcelManager()

    class Meta:
        constraints = [
            TransitionConstraint(field="status", transitions=ROUTE, initial=["packed"], name="parcel_status")
        ]

    def __str__(self) -> str:
        return str(self.status)


class Crate(models.Model):
    """A row that only its triggers hold."""

    status = models.CharField(max_length=10, default="packed")

    class Meta:
        constraints = [TransitionConstraint(field="status", transitions=ROUTE, initial=["packed"], name="crate_status")]

    def __str__(self) -> str:
        return self.status

"""The queryset of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Expression, Q
from django.db.models.sql.compiler import SQLCompiler

from .statemachine.queryset import StateMachineQuerySet
from .statemachine.triggers import dialect_for

if TYPE_CHECKING:
    from .models import ContainerJob


class DatabaseNow(Expression):
    """The present time by the database's clock, as Django stores it there.

    Django's `Now` would be wrong where the zone in which times are stored is not that of the database's session.
    """

    output_field = DateTimeField()

    def as_sql(self, compiler: SQLCompiler | None, connection: BaseDatabaseWrapper) -> tuple[str, tuple[()]]:
        # Of the statement, unlike the triggers' time: an index can serve a comparison with it.
        return ("statement_timestamp()" if connection.vendor == "postgresql" else dialect_for(connection).now), ()


class ContainerJobQuerySet(StateMachineQuerySet["ContainerJob"]):
    """Jobs: create them, and find those that are due."""

    def create_job(self, *, actor: object = None, **fields: Any) -> ContainerJob:
        """Create a pending job after full validation; ``actor`` is that of `container_manager.queue.enqueue`.

        Raises ValidationError that names each wrong field.
        """
        self._for_write = True
        job = self.model(**fields)
        job.submitted_by(actor)
        job.full_clean()
        job.save(using=self.db)
        return job

    def named(self, name: str) -> ContainerJobQuerySet:
        """Return the jobs of this name, found by its index; no job for "", since jobs without a name are not in it."""
        return self.filter(name=name).exclude(name="")

    def ready(self) -> ContainerJobQuerySet:
        """Return queued jobs that are due by the database's clock, in the order in which workers claim them."""
        due = Q(scheduled_for=None) | Q(scheduled_for__lte=DatabaseNow())
        return self.filter(due, status="queued").order_by("-priority", "queued_at", "pk")

    def retries_due(self) -> ContainerJobQuerySet:
        """Return jobs whose next attempt is due to be queued, by the database's clock."""
        due = Q(scheduled_for=None) | Q(scheduled_for__lte=DatabaseNow())
        return self.filter(due, status="retrying")

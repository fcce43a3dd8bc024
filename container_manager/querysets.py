"""The queryset of jobs."""

from __future__ import annotations

from string import hexdigits
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Expression, Q
from django.db.models.sql.compiler import SQLCompiler

from .statemachine.queryset import StateMachineQuerySet
from .statemachine.triggers import dialect_for

if TYPE_CHECKING:
    from .models import ContainerJob

# Of version 7: MariaDB orders UUIDs of other versions by other digits.
_LEAST_ID, _MOST_ID = f"{'0' * 12}7{'0' * 3}8{'0' * 15}", f"{'f' * 12}7{'f' * 3}b{'f' * 15}"
_SHORTEST_BEGINNING = 4


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

    def id_begins(self, text: str) -> ContainerJobQuerySet:
        """Return the jobs whose ids begin so, by 4 hexadecimal digits or more: a range of the primary key."""
        digits = text.replace("-", "").lower()
        if not _SHORTEST_BEGINNING <= len(digits) <= len(_LEAST_ID) or not set(digits) <= set(hexdigits):
            return self.none()
        least, most = (UUID(digits + rest[len(digits) :]) for rest in (_LEAST_ID, _MOST_ID))
        return self.filter(pk__range=(least, most))

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

"""The queryset of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from string import hexdigits
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Expression, Q
from django.db.models.sql.compiler import SQLCompiler

from .jobs.statuses import JobStatus
from .statemachine.deadlocks import retry_deadlocks
from .statemachine.queryset import BulkTransition, StateMachineQuerySet
from .statemachine.triggers import dialect_for
from .unique_keys import KEY_CONSTRAINT, UniqueKeyHeld, is_key_conflict, refusing_held_keys

if TYPE_CHECKING:
    from .models import ContainerJob

# Of version 7: MariaDB orders UUIDs of other versions by other digits.
_LEAST_ID, _MOST_ID = f"{'0' * 12}7{'0' * 3}8{'0' * 15}", f"{'f' * 12}7{'f' * 3}b{'f' * 15}"
_SHORTEST_BEGINNING = 4
_BATCH = 1000
# Between a look for the holder of a key and the next try to take it another one may take it, and give it up.
_TRIES = 10


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

        Or return the job that holds its unique key, as `container_manager.queue.enqueue` does.
        Raises ValidationError that names each wrong field.
        """
        self._for_write = True
        job = self.model(**fields)
        job.submitted_by(actor)
        # A key that is held is no error.
        job.full_clean(validate_constraints=not job.unique_key)
        return self.insert(job)

    def insert(self, job: ContainerJob) -> ContainerJob:
        """Insert a valid job; return it, or the job that holds its unique key, which then ``existed``."""
        self._for_write = True
        if not job.unique_key:
            job.save(using=self.db, force_insert=True)
            return job
        return retry_deadlocks(lambda: self._insert_unless_held(job), using=self.db)

    def insert_many(self, jobs: Sequence[ContainerJob]) -> list[ContainerJob]:
        """Do `insert` for many jobs in few statements, all or none; of those with the same key for the first one."""
        self._for_write = True
        return retry_deadlocks(lambda: self._insert_many(jobs), using=self.db)

    def _insert_many(self, jobs: Sequence[ContainerJob]) -> list[ContainerJob]:
        first: dict[str, ContainerJob] = {}
        for job in jobs:
            first.setdefault(job.unique_key, job)
        # In the order of the keys, so that two such transactions do not wait for each other.
        of_keys = {key: first[key] for key in sorted(first) if key}
        with transaction.atomic(using=self.db):
            self.bulk_create([job for job in jobs if not job.unique_key], batch_size=_BATCH)
            try:
                # A savepoint only where there is something that it is for.
                with transaction.atomic(using=self.db, savepoint=bool(of_keys)):
                    self.bulk_create(of_keys.values(), batch_size=_BATCH)
            except IntegrityError as error:
                if not is_key_conflict(error):
                    raise
                of_keys = {key: self._insert_unless_held(job) for key, job in of_keys.items()}
        return [of_keys.get(job.unique_key, job) for job in jobs]

    def _insert_unless_held(self, job: ContainerJob) -> ContainerJob:
        conflict: UniqueKeyHeld | None = None
        for _ in range(_TRIES):
            if (holder := self._holder(job.unique_key, is_latest=conflict is not None)) is not None:
                holder.existed = True
                return holder
            try:
                with transaction.atomic(using=self.db):
                    job.save(using=self.db, force_insert=True)
                return job
            except UniqueKeyHeld as error:
                conflict = error
        # By a job that the isolation level of the caller's transaction does not let it see.
        raise UniqueKeyHeld(job.unique_key) from conflict

    def holding(self, key: str) -> ContainerJobQuerySet:
        """Return the job that holds a unique key, found by its index; of a period, also one whose period is over."""
        (constraint,) = (c for c in self.model._meta.constraints if c.name == KEY_CONSTRAINT)
        return constraint.rows(self, key) if key else self.none()  # type: ignore[attr-defined]

    def _holder(self, key: str, *, is_latest: bool) -> ContainerJob | None:
        """Return the job that holds a key; one whose period is over gives it up."""
        connection, rows = connections[self.db], self.holding(key)
        if is_latest and dialect_for(connection).reads_snapshot and not connection.get_autocommit():
            # A plain read would show the transaction's snapshot, which does not have the row.
            rows = rows.select_for_update()
        for holder in rows[:1]:
            if holder.unique_seconds is None:
                return holder
            same = self.model._base_manager.using(self.db).filter(pk=holder.pk, unique_key=key)
            now = same.values_list(DatabaseNow(), flat=True).first()
            if now is not None and holder.created_at + timedelta(seconds=holder.unique_seconds) > now:
                return holder
            same.update(unique_key="")
        return None

    def transition_to(
        self, new: object, *, reason: str = "", actor: object = None, at: datetime | None = None
    ) -> BulkTransition:
        """Do `StateMachineQuerySet.transition_to`; raises UniqueKeyHeld for a retry whose key another job holds."""
        with refusing_held_keys():
            return super().transition_to(new, reason=reason, actor=actor, at=at)

    transition_to.queryset_only = True  # type: ignore[attr-defined]

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
        return self.filter(due, status=JobStatus.QUEUED).order_by("-priority", "queued_at", "pk")

    def retries_due(self) -> ContainerJobQuerySet:
        """Return jobs whose next attempt is due to be queued, by the database's clock."""
        due = Q(scheduled_for=None) | Q(scheduled_for__lte=DatabaseNow())
        return self.filter(due, status=JobStatus.RETRYING)

"""The guarded UPDATE of one row: SQL built once per model, target and database, and its refusals.

Building the query in the ORM costs several times what the database needs for it (see the benchmarks), so a
transition goes to the cursor directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model
from django.utils import timezone

from .dialects.base import dialect_for
from .exceptions import MissingRow, StaleTransition
from .graph import State
from .machine import Effect, Machine, machine_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRow:
    """A row that a write was conditional on, and the errors that say why the write was refused."""

    model: type[Model]
    pk: Any
    field: str
    using: str
    expected: State | None

    def refusal(self) -> StaleTransition:
        """Return the error for a write that matched no row; it says what the row is now."""
        try:
            found = self._found()
        except DatabaseError as error:
            if conflict := self.conflict(error):
                return conflict
            raise
        if found is None:
            return MissingRow(pk=self.pk, expected=self.expected, using=self.using)
        return StaleTransition(pk=self.pk, expected=self.expected, found=found)

    def conflict(self, error: DatabaseError) -> StaleTransition | None:
        """Return the error for a write that the database refused because another transaction was first, else None.

        An open transaction can then only be rolled back. A caller that catches the error would else commit what the
        database has given up: PostgreSQL takes that COMMIT without a word, and whatever waits for the commit would
        be told of changes that never came.
        """
        connection = connections[self.using]
        if connection.in_atomic_block:
            connection.needs_rollback = True
        if not dialect_for(connection).is_conflict(error):
            return None
        if connection.get_autocommit():
            return self.refusal()
        return StaleTransition(pk=self.pk, expected=self.expected, found=None)

    def _found(self) -> State | None:
        connection = connections[self.using]
        rows = self.model._base_manager.using(self.using).filter(pk=self.pk).order_by()
        if dialect_for(connection).reads_snapshot and not connection.get_autocommit():
            # A plain read would show the transaction's snapshot, not what refused the UPDATE.
            rows = rows.select_for_update()
        found: State | None = rows.values_list(self.field, flat=True).first()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The values that a transition to one state writes, as the driver takes them.

    To prepare a value through its field costs up to 3 µs, so what is always the same is prepared once, and the time of
    the transition once for all columns that take it.
    """

    template: tuple[Any, ...]
    # What takes the other places of the template.
    filled: tuple[tuple[Field[Any, Any], tuple[int, ...]], ...]

    @classmethod
    def of(cls, machine: Machine, target: State, fields: Sequence[Any], connection: BaseDatabaseWrapper) -> Values:
        at = timezone.now()
        changes = machine.changes(target, at=at, actor="", reason="")
        template: list[Any] = []
        places: dict[Any, list[int]] = {}
        for place, field in enumerate(fields):
            value = changes[field.name]
            varies = value is at or field.attname in machine.marks
            template.append(None if varies else field.get_db_prep_save(value, connection))
            if varies:
                places.setdefault(type(field) if value is at else field, []).append(place)
        return cls(template=tuple(template), filled=tuple((fields[p[0]], tuple(p)) for p in places.values()))

    def params(self, changes: Mapping[str, Any], connection: BaseDatabaseWrapper) -> list[Any]:
        params = list(self.template)
        for field, places in self.filled:
            value = field.get_db_prep_save(changes[field.name], connection)
            for place in places:
                params[place] = value
        return params


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedUpdate:
    """``UPDATE … WHERE key AND state AND version`` for one target state."""

    model: type[Model]
    using: str
    key: Field[Any, Any]
    sql: str
    versioned_sql: str
    values: Values
    state_field: Field[Any, Any]
    # From where the target can be reached, as the driver takes it.
    sources: Mapping[State, Any]

    @classmethod
    @cache
    def of(cls, model: type[Model], target: State, using: str) -> GuardedUpdate:
        machine, connection = machine_of(model), connections[using]
        quote = connection.ops.quote_name
        state_field: Any = model._meta.get_field(machine.field)
        owner = state_field.model
        changes = machine.changes(target, at=timezone.now(), actor="", reason="")
        written: dict[str, Any] = {name: model._meta.get_field(name) for name in changes}
        columns = {name: quote(field.column) for name, field in written.items()}
        assignments = ", ".join(
            f"{column} = {column} + 1" if changes[name] is Effect.INCREMENT else f"{column} = %s"
            for name, column in columns.items()
        )
        key = owner._meta.pk
        state = dialect_for(connection).unindexed % {"expressions": quote(state_field.column)}
        sql = f"UPDATE {quote(owner._meta.db_table)} SET {assignments} WHERE {quote(key.column)} = %s AND {state} = %s"
        version = machine.journal.version if machine.journal else None
        set_fields = [field for name, field in written.items() if changes[name] is not Effect.INCREMENT]
        return cls(
            model=model,
            using=using,
            key=key,
            sql=sql,
            versioned_sql=f"{sql} AND {columns[version]} = %s" if version else sql,
            values=Values.of(machine, target, set_fields, connection),
            state_field=state_field,
            sources={s: state_field.get_db_prep_save(s, connection) for s in machine.graph.sources(target)},
        )

    def run(self, instance: Any, expected: State, version: Any, changes: Mapping[str, Any]) -> None:
        """Write the changes if the row still is as expected; a version of None is not asked for.

        Raises StaleTransition or MissingRow otherwise.
        """
        connection = connections[self.using]
        params = self.values.params(changes, connection)
        params.append(self.key.get_db_prep_save(getattr(instance, self.key.attname), connection))
        params.append(self.sources[expected])
        if version is not None:
            params.append(version)
        try:
            with connection.cursor() as cursor:
                cursor.execute(self.sql if version is None else self.versioned_sql, params)
                matched = cursor.rowcount
        except DatabaseError as error:
            if conflict := self._row(instance, expected).conflict(error):
                raise conflict from error
            raise
        if not matched:
            raise self._row(instance, expected).refusal()

    def _row(self, instance: Any, expected: State) -> ExpectedRow:
        field = self.state_field.attname
        return ExpectedRow(model=self.model, pk=instance.pk, field=field, using=self.using, expected=expected)

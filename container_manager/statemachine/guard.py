"""The guarded UPDATE of one row: SQL built once per model, target and database, and its refusals.

Building the query in the ORM costs several times what the database needs for it (see the benchmarks), so a
transition goes to the cursor directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import DatabaseError, connections, models
from django.db.models import Field, Model
from django.utils import timezone

from .dialects.base import dialect_for
from .exceptions import MissingRow, StaleTransition
from .graph import State
from .machine import Effect, machine_of

# What these hold goes to the driver as it is; converting it all the same is a tenth of a transition's time.
_PLAIN_FIELDS = (models.CharField, models.TextField, models.PositiveIntegerField)
# Not what is derived from them: PostgreSQL's driver writes an enum's name.
_PLAIN_TYPES = (str, int)


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
class GuardedUpdate:
    """``UPDATE … WHERE key AND state AND version`` for one target state."""

    model: type[Model]
    using: str
    key: Field[Any, Any]
    sql: str
    versioned_sql: str
    # With whether the driver takes its value as it is.
    fields: tuple[tuple[Field[Any, Any], bool], ...]
    state_field: Field[Any, Any]

    @classmethod
    @cache
    def of(cls, model: type[Model], target: State, using: str) -> GuardedUpdate:
        machine = machine_of(model)
        quote = connections[using].ops.quote_name
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
        state = dialect_for(connections[using]).unindexed % {"expressions": quote(state_field.column)}
        sql = f"UPDATE {quote(owner._meta.db_table)} SET {assignments} WHERE {quote(key.column)} = %s AND {state} = %s"
        version = machine.journal.version if machine.journal else None
        return cls(
            model=model,
            using=using,
            key=key,
            sql=sql,
            versioned_sql=f"{sql} AND {columns[version]} = %s" if version else sql,
            fields=tuple(
                (written[name], value is None or (type(value) in _PLAIN_TYPES and type(written[name]) in _PLAIN_FIELDS))
                for name, value in changes.items()
                if value is not Effect.INCREMENT
            ),
            state_field=state_field,
        )

    def run(self, instance: Any, expected: State, version: Any, changes: Mapping[str, Any]) -> None:
        """Write the changes if the row still is as expected; a version of None is not asked for.

        Raises StaleTransition or MissingRow otherwise.
        """
        connection = connections[self.using]
        params = [
            changes[field.name] if plain else field.get_db_prep_save(changes[field.name], connection)
            for field, plain in self.fields
        ]
        params.append(self.key.get_db_prep_save(getattr(instance, self.key.attname), connection))
        params.append(self.state_field.get_db_prep_save(expected, connection))
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


def can_be_direct(values: Sequence[tuple[Field[Any, Any], Any]]) -> bool:
    """Tell whether `update_directly` can write these: plain values only, of fields without SQL of their own."""
    return not any(hasattr(value, "resolve_expression") or _has_placeholder(field) for field, value in values)


def _has_placeholder(field: Field[Any, Any]) -> bool:
    # Django 6.1 has another name for it.
    return hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql")


def update_directly(
    table: Model, pk: Any, values: Sequence[tuple[Field[Any, Any], Any]], conditions: Mapping[str, Any], *, using: str
) -> int:
    """Write values to one row of an instance's table if its columns still are as in ``conditions``; count the rows."""
    connection, meta = connections[using], table._meta
    quote, unindexed = connection.ops.quote_name, dialect_for(connection).unindexed
    key: Any = meta.pk
    asked: list[tuple[Any, Any]] = [(meta.get_field(name), value) for name, value in conditions.items()]
    where = [
        f"{quote(key.column)} = %s",
        *(f"{unindexed % {'expressions': quote(field.column)}} = %s" for field, _ in asked),
    ]
    params = [field.get_db_prep_save(value, connection) for field, value in values]
    params.append(key.get_db_prep_save(pk, connection))
    params += [field.get_db_prep_save(value, connection) for field, value in asked]
    assignments = ", ".join(f"{quote(str(field.column))} = %s" for field, _ in values)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {quote(meta.db_table)} SET {assignments} WHERE {' AND '.join(where)}", params)
        return int(cursor.rowcount)

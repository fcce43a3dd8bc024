"""The conditional UPDATE of one row: its SQL, built once per model, target and database, and its refusals.

Building the query in the ORM takes several times as long as the database needs for it (see the benchmarks), so a
transition uses the cursor directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

from django.db import DatabaseError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Field, Func, JSONField, Model, Q, QuerySet, Value
from django.db.models.lookups import Exact, In

from .exceptions import MissingRow, StaleTransition
from .graph import State
from .machine import Effect, machine_of
from .save_plan import Condition
from .triggers import dialect_for

# Constants of these fields can be literals in the SQL, and values of a journal's need no preparation.
_PLAIN_FIELDS = (models.CharField, models.TextField, models.IntegerField, models.PositiveIntegerField)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRow:
    """The row that a conditional write expected, and the errors that say why the write was refused."""

    model: type[Model]
    pk: Any
    field: str
    using: str
    expected: State | None

    def refusal(self) -> StaleTransition:
        """Return the error for a write that matched no row, with the row's present state."""
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
        """Return the error for a write that failed because another transaction wrote first, else None.

        An open transaction is marked for rollback. Otherwise a caller that catches the error could commit an aborted
        transaction: PostgreSQL accepts that COMMIT silently, and on_commit handlers would report changes that never
        happened.
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
            # A plain read would show the transaction's snapshot, not the row that did not match.
            rows = rows.select_for_update()
        found: State | None = rows.values_list(self.field, flat=True).first()
        return found


class Parameter(NamedTuple):
    """A value of the SET list that is not a constant.

    ``field`` prepares it; None: the driver takes it as it is. ``is_time``: it is the time of the transition.
    """

    name: str
    field: Field[Any, Any] | None
    is_time: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedUpdate:
    """``UPDATE … WHERE key AND state AND version`` for one target state."""

    model: type[Model]
    using: str
    key: Field[Any, Any]
    sql: str
    versioned_sql: str
    # The parameters of the SET list, in order; constants are literals in the SQL.
    given: tuple[Parameter, ...]
    state_field: Field[Any, Any]
    # The states that lead to the target, as the driver takes them.
    sources: Mapping[State, Any]

    @classmethod
    @cache
    def of(cls, model: type[Model], target: State, using: str) -> GuardedUpdate:
        machine, connection = machine_of(model), connections[using]
        quote, journal = connection.ops.quote_name, machine.journal
        state_field: Any = model._meta.get_field(machine.field)
        owner = state_field.model
        key = owner._meta.pk
        assignments: list[str] = []
        given: list[Parameter] = []
        for name, value in machine.effects[target].items():
            field: Any = model._meta.get_field(name)
            varies = journal is not None and name in (journal.actor, journal.reason)
            sql = None if varies else _assigned(field, value, connection)
            assignments.append(f"{quote(field.column)} = {sql or '%s'}")
            if sql is None:
                is_time = value is Effect.NOW and type(field) is models.DateTimeField
                is_plain = name in machine.marks and type(field) in _PLAIN_FIELDS
                given.append(Parameter(name=name, field=None if is_plain else field, is_time=is_time))
        state = dialect_for(connection).unindexed % {"expressions": quote(state_field.column)}
        sql = (
            f"UPDATE {quote(owner._meta.db_table)} SET {', '.join(assignments)} "
            f"WHERE {quote(key.column)} = %s AND {state} = %s"
        )
        version: Any = model._meta.get_field(journal.version) if journal else None
        return cls(
            model=model,
            using=using,
            key=key,
            sql=sql,
            versioned_sql=f"{sql} AND {quote(version.column)} = %s" if version else sql,
            given=tuple(given),
            state_field=state_field,
            sources={s: state_field.get_db_prep_save(s, connection) for s in machine.graph.sources(target)},
        )

    def run(self, instance: Any, expected: State, version: Any, changes: Mapping[str, Any]) -> None:
        """Write the changes if the row is still as expected; a version of None is not compared.

        Raises StaleTransition or MissingRow otherwise.
        """
        connection = connections[self.using]
        params = self._params(changes, connection)
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

    def _params(self, changes: Mapping[str, Any], connection: BaseDatabaseWrapper) -> list[Any]:
        # To have each value prepared by its field takes a tenth longer for the whole transition (measured on SQLite).
        at, params = None, []
        for name, field, is_time in self.given:
            if is_time:
                at = at or connection.ops.adapt_datetimefield_value(changes[name])
                params.append(at)
            elif field is None:
                params.append(changes[name])
            else:
                params.append(field.get_db_prep_save(changes[name], connection))
        return params

    def _row(self, instance: Any, expected: State) -> ExpectedRow:
        field = self.state_field.attname
        return ExpectedRow(model=self.model, pk=instance.pk, field=field, using=self.using, expected=expected)


def _assigned(field: Any, value: Any, connection: BaseDatabaseWrapper) -> str | None:
    """Return the SQL of what a transition always assigns to a field, or None if it must be a parameter."""
    if value is Effect.INCREMENT:
        return f"{connection.ops.quote_name(field.column)} + 1"
    if value is None:
        return "NULL"
    # Neither times nor versions, nor a lazy text, which is another in each language.
    if isinstance(value, str | int) and type(field) in _PLAIN_FIELDS:
        constant = field.get_db_prep_save(value, connection)
        return dialect_for(connection).literal(constant).replace("%", "%%")
    return None


def update_directly(
    table: type[Model],
    pk: Any,
    values: Sequence[tuple[Field[Any, Any], Any, Any]],
    conditions: Sequence[Condition],
    *,
    using: str,
) -> int | None:
    """Update a row if all conditions hold; return how many rows matched.

    ``values`` are those of Django's save: field, None, value. Returns None if the update needs the ORM: for a value or
    a field with SQL of its own, or a condition with several values or NULL.
    """
    connection, meta = connections[using], table._meta
    asked = tuple((name, by_key) for name, _, by_key in conditions)
    sql = _update_sql(table, tuple(field.attname for field, _, _ in values), asked, using)
    simple = all(len(found) == 1 and found[0] is not None for _, found, _ in conditions)
    if sql is None or not simple or any(hasattr(value, "resolve_expression") for _, _, value in values):
        return None
    params = [field.get_db_prep_save(value, connection) for field, _, value in values]
    key: Any = meta.pk
    params.append(key.get_db_prep_save(pk, connection))
    for name, found, _ in conditions:
        field: Any = meta.get_field(name)
        params.append(field.get_db_prep_save(found[0], connection))
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


@lru_cache(maxsize=512)
def _update_sql(
    table: type[Model], written: tuple[str, ...], conditions: tuple[tuple[str, bool], ...], using: str
) -> str | None:
    """Return the UPDATE of these fields, or None if one of them has SQL of its own."""
    connection, meta = connections[using], table._meta
    quote, unindexed = connection.ops.quote_name, dialect_for(connection).unindexed
    fields: list[Any] = [meta.get_field(name) for name in written]
    # The second name is that of Django 6.1.
    if any(hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql") for field in fields):
        return None
    key: Any = meta.pk
    where = [f"{quote(key.column)} = %s"]
    for name, by_key in conditions:
        field: Any = meta.get_field(name)
        column = quote(field.column)
        where.append(f"{unindexed % {'expressions': column} if by_key else column} = %s")
    assignments = ", ".join(f"{quote(field.column)} = %s" for field in fields)
    return f"UPDATE {quote(meta.db_table)} SET {assignments} WHERE {' AND '.join(where)}"


def matching(rows: QuerySet[Any], conditions: Sequence[Condition]) -> QuerySet[Any]:
    """Return the rows for which all conditions hold."""
    unindexed = dialect_for(connections[rows.db]).unindexed
    for name, values, by_key in conditions:
        if by_key:
            column: Any = Func(F(name), template=unindexed, output_field=rows.model._meta.get_field(name))
            rows = rows.filter(In(column, values) if len(values) > 1 else Exact(column, values[0]))
        elif values[0] is None:
            field = rows.model._meta.get_field(name)
            is_null = Q(**{f"{name}__isnull": True})
            # Of a JSON field both NULL and JSON's null are loaded as None.
            is_json = isinstance(field, JSONField)
            rows = rows.filter(is_null | Q(**{name: Value(None, field)}) if is_json else is_null)
        else:
            rows = rows.filter(**{name: values[0]})
    return rows

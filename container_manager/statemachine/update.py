"""The guarded UPDATE of one row: SQL built once per model, target and database, and its refusals.

Building the query in the ORM costs several times what the database needs for it (see the benchmarks), so a
transition goes to the cursor directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from django.db import DatabaseError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Field, Func, Model, QuerySet
from django.db.models.lookups import Exact, In, IsNull
from django.utils import timezone

from .exceptions import MissingRow, StaleTransition
from .graph import State
from .machine import Effect, Machine, machine_of
from .save_plan import Condition
from .triggers import dialect_for

# What a journal has for these goes to the driver as it is.
_PLAIN_FIELDS = (models.CharField, models.TextField, models.PositiveIntegerField)


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

    To prepare a value through its field costs up to 4 µs of a transition's 100: what is always the same is prepared
    once, and the time of a transition once for all columns that take it.
    """

    template: tuple[Any, ...]
    # Where the time of the transition goes, and the name of a change that has it.
    times: tuple[int, ...]
    time: str
    # Where the others go, and whether their field prepares them.
    others: tuple[tuple[int, Field[Any, Any], bool], ...]

    @classmethod
    def of(cls, machine: Machine, target: State, fields: Sequence[Any], connection: BaseDatabaseWrapper) -> Values:
        at = timezone.now()
        changes = machine.changes(target, at=at, actor="", reason="")
        template: list[Any] = []
        times: list[int] = []
        others: list[tuple[int, Any, bool]] = []
        for place, field in enumerate(fields):
            value = changes[field.name]
            # A lazy text, for one, is another in each language.
            fixed = field.name not in machine.marks and (value is None or isinstance(value, str | int))
            template.append(field.get_db_prep_save(value, connection) if fixed else None)
            if value is at and type(field) is models.DateTimeField:
                times.append(place)
            elif not fixed:
                others.append((place, field, type(field) not in _PLAIN_FIELDS))
        time = fields[times[0]].name if times else ""
        return cls(template=tuple(template), times=tuple(times), time=time, others=tuple(others))

    def params(self, changes: Mapping[str, Any], connection: BaseDatabaseWrapper) -> list[Any]:
        params = list(self.template)
        if self.times:
            at = connection.ops.adapt_datetimefield_value(changes[self.time])
            for place in self.times:
                params[place] = at
        for place, field, prepares in self.others:
            value = changes[field.name]
            params[place] = field.get_db_prep_save(value, connection) if prepares else value
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
    # The states that lead to the target, as the driver takes them.
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
        given = [field for name, field in written.items() if changes[name] is not Effect.INCREMENT]
        return cls(
            model=model,
            using=using,
            key=key,
            sql=sql,
            versioned_sql=f"{sql} AND {columns[version]} = %s" if version else sql,
            values=Values.of(machine, target, given, connection),
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
        column: Any = F(name)
        if by_key:
            column = Func(column, template=unindexed, output_field=rows.model._meta.get_field(name))
        if len(values) > 1:
            rows = rows.filter(In(column, values))
        elif values[0] is None:
            rows = rows.filter(IsNull(column, True))
        else:
            rows = rows.filter(Exact(column, values[0]))
    return rows

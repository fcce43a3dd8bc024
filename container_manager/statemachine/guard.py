"""The guarded UPDATE of one row: SQL built once per model, target and database, and its refusals.

Building the query in the ORM costs several times what the database needs for it (see the benchmarks), so a
transition goes to the cursor directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import OperationalError, connections
from django.db.models import Field, Model
from django.utils import timezone

from .dialects.base import dialect_for
from .exceptions import MissingRow, StaleTransition
from .graph import State
from .machine import Effect, machine_of


def state_found(model: type[Model], pk: Any, field: str, using: str) -> State | None:
    """Return the state in the database now, or None where there is no such row."""
    connection = connections[using]
    rows = model._base_manager.using(using).filter(pk=pk).order_by()
    if connection.in_atomic_block and connection.features.has_select_for_update:
        # Under REPEATABLE READ on MariaDB a plain read shows the snapshot, not what refused the UPDATE.
        rows = rows.select_for_update(of=("self",) if connection.features.has_select_for_update_of else ())
    found: State | None = rows.values_list(field, flat=True).first()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedUpdate:
    """``UPDATE … WHERE key AND state AND version`` for one target state."""

    model: type[Model]
    using: str
    key: Field[Any, Any]
    sql: str
    versioned_sql: str
    fields: tuple[Field[Any, Any], ...]
    state_field: Field[Any, Any]
    version: str | None

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
        sql = (
            f"UPDATE {quote(owner._meta.db_table)} SET {assignments} "
            f"WHERE {quote(key.column)} = %s AND {quote(state_field.column)} = %s"
        )
        version = machine.journal.version if machine.journal else None
        return cls(
            model=model,
            using=using,
            key=key,
            sql=sql,
            versioned_sql=f"{sql} AND {columns[version]} = %s" if version else sql,
            fields=tuple(written[name] for name, value in changes.items() if value is not Effect.INCREMENT),
            state_field=state_field,
            version=version,
        )

    def run(self, instance: Any, expected: State, changes: Mapping[str, Any]) -> None:
        """Write the changes if the row still is as expected.

        Raises StaleTransition or MissingRow otherwise.
        """
        connection = connections[self.using]
        params = [field.get_db_prep_save(changes[field.name], connection) for field in self.fields]
        params.append(self.key.get_db_prep_save(getattr(instance, self.key.attname), connection))
        params.append(self.state_field.get_db_prep_save(expected, connection))
        loaded_version = instance._loaded.get(self.version) if self.version else None
        sql = self.sql
        if loaded_version is not None:
            sql = self.versioned_sql
            params.append(loaded_version)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, params)
                matched = cursor.rowcount
        except OperationalError as error:
            if not dialect_for(connection).is_conflict(error):
                raise
            found = None if connection.in_atomic_block else self._found(instance)
            raise StaleTransition(pk=instance.pk, expected=expected, found=found) from error
        if not matched:
            found = self._found(instance)
            if found is None:
                raise MissingRow(pk=instance.pk, expected=expected, using=self.using)
            raise StaleTransition(pk=instance.pk, expected=expected, found=found)

    def _found(self, instance: Any) -> State | None:
        return state_found(self.model, instance.pk, self.state_field.attname, self.using)

"""A transition's effects as SQL, for statements that do not go through the ORM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Model

from .graph import State, plain
from .machine import Effect, machine_of
from .triggers.dialect import Dialect


def assignments(model: type[Model], target: State, dialect: Dialect, *, now: str, row: str = "") -> dict[str, str]:
    """Return what a transition to ``target`` assigns: field name → SQL.

    ``now`` is the SQL of the transition's time; ``row`` qualifies the row's own columns ("j."). The SQL is for
    execution with parameters: per cent signs are doubled.
    """
    sql: dict[str, str] = {}
    for name, value in machine_of(model).effects[plain(target)].items():
        if value is Effect.NOW:
            sql[name] = now
        elif value is Effect.NEW_VERSION:
            sql[name] = dialect.new_version
        elif value is Effect.INCREMENT:
            sql[name] = f"{row}{column_sql(model, name, dialect)} + 1"
        else:
            sql[name] = "NULL" if value is None else dialect.literal(plain(value)).replace("%", "%%")
    return sql


def assignments_by_target(
    model: type[Model], targets: Sequence[State], dialect: Dialect, *, target_sql: str, now: str, row: str = ""
) -> dict[str, str]:
    """Return the same for a statement whose rows go to several states; ``target_sql`` is each row's new state."""
    by_target = {target: assignments(model, target, dialect, now=now, row=row) for target in targets}
    merged: dict[str, str] = {}
    for name in dict.fromkeys(name for sql in by_target.values() for name in sql):
        kept = f"{row}{column_sql(model, name, dialect)}"
        values = {target: sql.get(name, kept) for target, sql in by_target.items()}
        if len(set(values.values())) == 1:
            merged[name] = next(iter(values.values()))
            continue
        cases = " ".join(f"WHEN {dialect.literal(plain(target))} THEN {value}" for target, value in values.items())
        merged[name] = f"CASE {target_sql} {cases} END"
    return merged


def column_sql(model: type[Model], name: str, dialect: Dialect) -> str:
    """Return the quoted column of a field."""
    field: Any = model._meta.get_field(name)
    return dialect.quote(field.column)

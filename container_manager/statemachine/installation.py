"""Compare the triggers in a database with those that the models declare, and install them.

On MySQL DDL is not transactional: what can be known to fail is refused before the first statement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import FieldDoesNotExist
from django.core.management.base import CommandError
from django.db import connections, router
from django.db.models import Model

from .trigger_constraint import trigger_constraints
from .triggers import dialect_for


def guarded_models(using: str, app_configs: Sequence[AppConfig] | None = None) -> list[type[Model]]:
    """Return the models of these apps (None: all) whose tables belong into a database and have triggers there."""
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return _guarded((model for config in configs for model in config.get_models()), using)


def _guarded(models: Iterable[type[Model]], using: str) -> list[type[Model]]:
    return [
        model
        for model in models
        if model._meta.managed
        and not model._meta.proxy
        and trigger_constraints(model)
        and router.allow_migrate_model(using, model)
    ]


def has_table(model: type[Model], using: str) -> bool:
    """Tell whether a model's table exists."""
    connection = connections[using]
    return dialect_for(connection).has_table(connection, model._meta.db_table)


def drift(model: type[Model], using: str, *, missing_only: bool = False) -> list[str]:
    """Return the names of a model's triggers that are missing or differ from its constraints."""
    connection, constraints = connections[using], trigger_constraints(model)
    return sorted(name for c in constraints for name in c.drift(model, connection, missing_only=missing_only))


def require_creation(using: str, apps_to_migrate: Collection[str]) -> None:
    """Raise CommandError if these apps need triggers that the database would refuse to create."""
    if any(model._meta.app_label in apps_to_migrate for model in guarded_models(using)):
        _require_creation(using)


def _require_creation(using: str) -> None:
    connection = connections[using]
    if reason := dialect_for(connection).creation_refused(connection):
        raise CommandError(f"{reason} Nothing was changed in database {using!r}.")


def install_differing(models: Iterable[type[Model]], using: str) -> None:
    """Create the triggers that are missing or differ, on tables that have what these triggers name."""
    connection = connections[using]
    for model in _guarded(models, using):
        for constraint in trigger_constraints(model):
            try:
                due = constraint.drift(model, connection) and not constraint.absent(model, connection)
            except FieldDoesNotExist:
                continue  # migrated to between a renamed field and its constraint
            if due:
                _require_creation(using)
                constraint.install(model, connection)


def compare_triggers(*, using: str, install: bool, write: Callable[[str], Any]) -> bool:
    """Write a line for each constraint that is held by triggers; with ``install``, create those that differ again.

    Return whether all triggers are then as the models declare them.
    """
    complete = True
    connection = connections[using]
    for model in guarded_models(using):
        label = model._meta.label
        if not has_table(model, using):
            write(f"{label}: no table; run 'migrate' first\n")
            complete = False
            continue
        for constraint in trigger_constraints(model):
            if not (names := constraint.drift(model, connection)):
                write(f"{label}: {constraint.name} is as the map says\n")
            elif absent := constraint.absent(model, connection):
                write(f"{label}: {constraint.name} needs {', '.join(absent)}; run 'migrate' first\n")
                complete = False
            elif install:
                _require_creation(using)
                constraint.install(model, connection)
                write(f"{label}: {constraint.name} installed\n")
            else:
                write(f"{label}: {constraint.name} is missing or differs: {', '.join(names)}\n")
                complete = False
    return complete

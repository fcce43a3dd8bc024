"""Compare the triggers in a database with those that the models declare, and install them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.db import connections, router
from django.db.models import Model

from .trigger_constraint import trigger_constraints
from .triggers import dialect_for


def guarded_models(using: str, app_configs: Sequence[AppConfig] | None = None) -> list[type[Model]]:
    """Return the models of these apps (None: all) whose tables belong into a database and have triggers there."""
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return [
        model
        for config in configs
        for model in config.get_models()
        if model._meta.managed
        and not model._meta.proxy
        and trigger_constraints(model)
        and router.allow_migrate_model(using, model)
    ]


def has_table(model: type[Model], using: str) -> bool:
    """Tell whether a model's table exists."""
    connection = connections[using]
    return dialect_for(connection).has_table(connection, model._meta.db_table)


def drift(model: type[Model], using: str) -> list[str]:
    """Return the names of a model's triggers that are missing or differ from its constraints."""
    connection = connections[using]
    return sorted(name for c in trigger_constraints(model) for name in c.drift(model, connection))


def compare_triggers(*, using: str, install: bool, write: Callable[[str], Any]) -> bool:
    """Write a line for each constraint that is held by triggers; with ``install``, create those that differ anew.

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
            elif install:
                constraint.install(model, connection)
                write(f"{label}: {constraint.name} installed\n")
            else:
                write(f"{label}: {constraint.name} is missing or differs: {', '.join(names)}\n")
                complete = False
    return complete

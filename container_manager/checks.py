"""System checks: the map against the field's choices, the database's vendor, and the installed triggers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import NotSupportedError, connections, router

from .statemachine import TransitionConstraint
from .statemachine.dialects.base import dialect_for
from .statemachine.triggers import trigger_constraints


@register(Tags.models)
def check_maps(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Compare each map with its field's choices: a status in one but not the other is a typo in one of them."""
    messages: list[CheckMessage] = []
    for model in _models(app_configs):
        for constraint in trigger_constraints(model):
            if not isinstance(constraint, TransitionConstraint):
                continue
            choices = {value for value, _label in model._meta.get_field(constraint.field).flatchoices}
            if choices and choices ^ set(constraint.graph.states):
                odd = ", ".join(sorted(map(repr, choices ^ set(constraint.graph.states))))
                messages.append(
                    Error(
                        f"The map of {constraint.name} and the choices of {constraint.field!r} differ in {odd}.",
                        hint="Give every status a line in the map and a choice.",
                        obj=model,
                        id="container_manager.E001",
                    )
                )
    return messages


@register(Tags.database)
def check_triggers(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Compare the installed triggers with the map, for ``check --database ALIAS``."""
    messages: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        guarded = [m for m in _models(app_configs) if trigger_constraints(m) and router.allow_migrate_model(alias, m)]
        if not guarded:
            continue
        try:
            dialect_for(connection)
        except NotSupportedError as error:
            messages.append(Error(str(error), obj=alias, id="container_manager.E002"))
            continue
        tables = set(connection.introspection.table_names())
        for model in guarded:
            if model._meta.db_table not in tables:
                continue
            drift = sorted(n for c in trigger_constraints(model) for n in c.drift(model, connection))
            if drift:
                messages.append(
                    Error(
                        f"The triggers of {model._meta.label} in database {alias!r} are missing or differ from its "
                        f"map: {', '.join(drift)}.",
                        hint="Run 'manage.py migrate'; if the migrations are all applied, "
                        f"'manage.py container triggers --install --database {alias}'.",
                        obj=model,
                        id="container_manager.E003",
                    )
                )
    return messages


def _models(app_configs: Sequence[AppConfig] | None) -> list[Any]:
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return [m for config in configs for m in config.get_models() if m._meta.managed and not m._meta.proxy]

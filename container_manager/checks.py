"""System checks of the databases: their vendors, and the triggers that are installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import FieldDoesNotExist
from django.db import NotSupportedError, connections, router

from .statemachine.dialects.base import dialect_for
from .statemachine.triggers import trigger_constraints


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
            dialect = dialect_for(connection)
        except NotSupportedError as error:
            messages.append(Error(str(error), obj=alias, id="container_manager.E002"))
            continue
        for model in guarded:
            if not dialect.has_table(connection, model._meta.db_table):
                continue
            try:
                drift = sorted(n for c in trigger_constraints(model) for n in c.drift(model, connection))
            except FieldDoesNotExist:
                continue  # E005 has named it
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

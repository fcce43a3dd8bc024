"""The state machine as a Django app: its system checks, and what it does before and after ``migrate``. No tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.apps import apps as registry
from django.apps.registry import Apps
from django.db import connections
from django.db.migrations import Migration
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.translation import gettext_lazy as _


class StateMachineConfig(AppConfig):
    name = "container_manager.statemachine"
    # Not "statemachine": a project may have an app with that name.
    label = "container_manager_statemachine"
    verbose_name = _("state machine")

    def ready(self) -> None:
        connect()


def connect() -> None:
    """Register the system checks, and what is done before and after each ``migrate``."""
    from . import checks  # noqa: F401  # registers itself on import

    pre_migrate.connect(_before_migrate)
    post_migrate.connect(_after_migrate)


def _before_migrate(
    *,
    sender: AppConfig,
    using: str,
    apps: Apps | None = None,
    plan: Sequence[tuple[Migration, bool]] = (),
    **_kwargs: Any,
) -> None:
    from .installation import require_creation

    if _is_first(sender) and plan and _has_dialect(using):
        require_creation(using, {migration.app_label for migration, _backwards in plan})
        # A migration that failed because of old triggers succeeds the next time.
        _install(apps, using)


def _after_migrate(*, sender: AppConfig, using: str, apps: Apps | None = None, **_kwargs: Any) -> None:
    from .trigger_constraint import sweep

    if _is_first(sender) and _has_dialect(using):
        sweep(using)
        _install(apps, using)


def _is_first(sender: AppConfig) -> bool:
    """Tell whether a signal is the first of its run.

    Django sends it once for each app that has models; this one may have none.
    """
    return sender is next(config for config in registry.get_app_configs() if config.models_module is not None)


def _install(apps: Apps | None, using: str) -> None:
    """Install what is missing or differs: not on the models of the code, but on those that the database is migrated to.

    ``apps`` is None after ``flush``, which leaves triggers alone.
    """
    from .installation import install_differing

    if apps is not None:
        install_differing(apps.get_models(), using)


def _has_dialect(using: str) -> bool:
    from .triggers import dialect_of

    return dialect_of(connections[using]) is not None

"""The state machine as a Django app: its system checks, and its clean-up after ``migrate``. It has no tables."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class StateMachineConfig(AppConfig):
    name = "container_manager.statemachine"
    # Not "statemachine": a project may have an app with that name.
    label = "container_manager_statemachine"
    verbose_name = _("state machine")

    def ready(self) -> None:
        connect(sender=self)


def connect(*, sender: AppConfig) -> None:
    """Register the system checks, and the removal of what dropped tables leave behind, after each ``migrate``."""
    from . import checks  # noqa: F401  # registers itself on import

    post_migrate.connect(_sweep, sender=sender)


def _sweep(*, using: str, **_kwargs: Any) -> None:
    from .trigger_constraint import sweep

    sweep(using)

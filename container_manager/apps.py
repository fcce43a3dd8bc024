"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class ContainerManagerConfig(AppConfig):
    name = "container_manager"
    verbose_name = _("container manager")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import (  # noqa: F401  # both register themselves on import
            checks,
            logs,
            setting_checks,  # these too
        )
        from .queue import wakeup  # noqa: F401  # so does this
        from .statemachine import checks as machine_checks  # noqa: F401  # and these

        post_migrate.connect(_sweep, sender=self)


def _sweep(*, using: str, **_kwargs: Any) -> None:
    from .statemachine.triggers import sweep

    sweep(using)

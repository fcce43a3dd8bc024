"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
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

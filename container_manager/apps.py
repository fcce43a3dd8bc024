"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ContainerManagerConfig(AppConfig):
    name = "container_manager"
    verbose_name = _("Container manager")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  # registers itself on import
        from .statemachine.apps import connect
        from .store import notifications  # noqa: F401  # so does this

        # Its machines are checked whether or not "container_manager.statemachine" is installed as well.
        connect()

"""The dashboard as a Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DashboardConfig(AppConfig):
    name = "container_manager.dashboard"
    # Not "dashboard": a project may have an app with that name.
    label = "container_manager_dashboard"
    verbose_name = _("Container manager's dashboard")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from ..signals import maintenance_due
        from .housekeeping import Housekeeping

        maintenance_due.connect(Housekeeping().step, weak=False, dispatch_uid="container_manager.dashboard")

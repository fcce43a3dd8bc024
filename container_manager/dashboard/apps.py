"""The dashboard as a Django app."""

from __future__ import annotations

from typing import Any

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

        maintenance_due.connect(_finish_bulk_acts, dispatch_uid="container_manager.dashboard")


def _finish_bulk_acts(*, using: str, **_kwargs: Any) -> bool:
    from .acts import advance_unfinished

    # One batch.
    return advance_unfinished(seconds=0, using=using)

"""The workers: their leases, their slots, what they run, and attempts that no live worker has."""

from __future__ import annotations

from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from ..models import ContainerJob
from .live import live_page
from .page import page, page_context
from .workforce import workforce


@page()
def workers(request: HttpRequest) -> HttpResponse:
    """Show the workers and what they run."""
    found = workforce(request.user, using=router.db_for_read(ContainerJob))
    regions = {"workers": "container_manager_dashboard/workers_rows.html"}
    context = {**page_context("workers", _("Workers"), interval=2), "found": found}
    return live_page(request, "container_manager_dashboard/workers.html", context, regions=regions)

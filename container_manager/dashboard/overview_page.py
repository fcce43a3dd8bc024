"""The overview: what waits, what runs, what failed, and how fast it goes."""

from __future__ import annotations

from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from ..models import ContainerJob
from ..queue import queue_statistics
from .live import live_page
from .page import page, page_context
from .workers_page import workforce


@page()
def overview(request: HttpRequest) -> HttpResponse:
    """Show the present of all queues and workers, and the last hours as charts."""
    using = router.db_for_read(ContainerJob)
    context = {
        **page_context("overview", _("Overview"), interval=5),
        "queues": sorted(queue_statistics(using=using).values(), key=lambda queue: queue.queue),
        "found": workforce(request.user, using=using),
    }
    regions = {name: f"container_manager_dashboard/overview_{name}.html" for name in ("counts", "charts", "workers")}
    return live_page(request, "container_manager_dashboard/overview.html", context, regions=regions)

"""The queues: what waits in each and since when; pause and resume them."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from ..jobs.printable import escaped
from ..models import ContainerJob
from ..queue import queue_statistics
from .access import Act, may
from .acts import set_paused
from .live import live_page
from .page import page, page_context


@page()
def queues(request: HttpRequest) -> HttpResponse:
    """Show what waits in each queue."""
    found = queue_statistics(using=router.db_for_read(ContainerJob))
    context = {
        **page_context("queues", _("Queues"), interval=2),
        "queues": [found[name] for name in sorted(found)],
        "may_pause": may(request.user, Act.PAUSE_QUEUES),
    }
    regions = {"queues": "container_manager_dashboard/queues_rows.html"}
    return live_page(request, "container_manager_dashboard/queues.html", context, regions=regions)


@page(Act.PAUSE_QUEUES, method="POST")
def pause(request: HttpRequest) -> HttpResponse:
    """Pause the queue whose name is in ``pause``, or resume the one in ``resume``."""
    paused = "pause" in request.POST
    name = request.POST.get("pause" if paused else "resume", "")
    using, reason = router.db_for_write(ContainerJob), request.POST.get("reason", "")
    try:
        changed = set_paused(name, paused=paused, user=request.user, reason=reason, using=using)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        text = _("Queue %(name)s is paused.") if paused else _("Queue %(name)s goes on.")
        text = text if changed else _("Queue %(name)s was so already.")
        messages.success(request, text % {"name": escaped(name)})
    return redirect("container_manager_dashboard:queues")

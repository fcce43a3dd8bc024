"""The progress of an act on all jobs that match: how many changed, and which were refused for what."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _

from .access import may
from .acts import advance, stop, visible_bulk_acts
from .job_acts import JobAct
from .live import LIVE, live_page
from .models import BulkAct
from .page import page, page_context


@page()
def bulk_act(request: HttpRequest, key: UUID) -> HttpResponse:
    """Show how far it has come."""
    return _progress(request, _bulk(request, key))


@page(method="POST")
def go_on(request: HttpRequest, key: UUID) -> HttpResponse:
    """Do a part of what is left. The page asks for it as long as it is open; without a script there is a button."""
    bulk = _bulk(request, key)
    advance(bulk, user=request.user)
    return _progress(request, bulk) if LIVE in request.POST else redirect("container_manager_dashboard:bulk_act", key)


@page(method="POST")
def stop_bulk_act(request: HttpRequest, key: UUID) -> HttpResponse:
    """End it where it is."""
    stop(_bulk(request, key), user=request.user)
    return redirect("container_manager_dashboard:bulk_act", key)


def _bulk(request: HttpRequest, key: UUID) -> BulkAct:
    """Return an act that the user may see. Raises Http404."""
    return get_object_or_404(visible_bulk_acts(request.user), pk=key)


def _progress(request: HttpRequest, bulk: BulkAct) -> HttpResponse:
    context = {
        **page_context("jobs", _("Progress"), interval=1),
        "bulk": bulk,
        "act": JobAct(bulk.act),
        "may_act": may(request.user, JobAct(bulk.act).permission),
        "refused": sorted(bulk.refused.items(), key=lambda pair: -pair[1]),
        "left_alone": sum(bulk.refused.values()),
    }
    regions = {"progress": "container_manager_dashboard/bulk_progress.html"}
    return live_page(request, "container_manager_dashboard/bulk.html", context, regions=regions)

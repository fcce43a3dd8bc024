"""The list of jobs: filters, search, pages, and acts on those that are selected or on all that match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import router
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from ..jobs.printable import escaped
from ..jobs.progress_lines import Progress, progress_of
from ..models import ContainerJob, FailureReason, JobAttempt, JobStatus
from ..store import known_queues
from .access import Act, may, visible_jobs
from .acts import act_on_all
from .job_acts import JobAct, act_on_some, report
from .live import live_page
from .page import page, page_context
from .search import QUALIFIERS, JobSearch, Page, Search, SearchError, parse

# Counted for the heading; the whole of a table is not.
_COUNTED = 1000


@page()
def jobs(request: HttpRequest) -> HttpResponse:
    """Show a page of the jobs that match the search ``q``, the newest first."""
    text, problem = request.GET.get("q", ""), ""
    using, search = router.db_for_read(ContainerJob), Search()
    seen = visible_jobs(request.user, using=using)
    try:
        search = parse(text)
        jobs = JobSearch(seen, search)
        found, count = jobs.page(request.GET.get("cursor", "")), str(jobs.count(most=_COUNTED))
    except SearchError as error:
        found, count, problem = Page(rows=()), "0", str(error)
    context = {
        **page_context("jobs", _("Jobs"), interval=2),
        "q": text,
        "problem": problem,
        "page": found,
        "progress": _progress(found.rows, using=using) if may(request.user, Act.SEE_OUTPUT) else {},
        "count": count,
        "filters": list(_filters(search, queues=known_queues(using=using))),
        "qualifiers": QUALIFIERS,
        "acts": allowed_acts(request.user),
    }
    return live_page(
        request,
        "container_manager_dashboard/jobs.html",
        context,
        regions={"rows": "container_manager_dashboard/jobs_rows.html"},
    )


def _progress(jobs: Sequence[ContainerJob], *, using: str) -> Mapping[UUID, Progress | None]:
    """Return how far those of a page's jobs have come that run."""
    running = {job.pk: job.attempt for job in jobs if job.status == JobStatus.RUNNING}
    if not running:
        return {}
    attempts = JobAttempt.objects.using(using).filter(job__in=list(running), finished_at=None)
    rows = attempts.values_list("job", "number", "progress")
    return {job: progress_of(said) for job, number, said in rows if running[job] == number}


@page(method="POST")
def act_on_jobs(request: HttpRequest) -> HttpResponse:
    """Act on the selected jobs, or on all that match, which is asked about once more."""
    try:
        # A button of the failures' page has its act and the keys of its group in one value.
        act_name, *keys = request.POST.get("group", "").split() or [request.POST.get("act", "")]
        act = JobAct(act_name)
        search = parse(request.POST.get("q", ""))
        selected = [UUID(key) for key in keys or request.POST.getlist("job")]
    except ValueError as error:
        return HttpResponseBadRequest(escaped(error), content_type="text/plain; charset=utf-8")
    using, reason = router.db_for_write(ContainerJob), request.POST.get("reason", "")
    back = f"{reverse('container_manager_dashboard:jobs')}?{urlencode({'q': str(search)})}"
    try:
        if request.POST.get("scope") == "all":
            if "sure" not in request.POST:
                return _ask(request, search, act, reason, back)
            bulk = act_on_all(search, act, user=request.user, reason=reason, using=using)
            return redirect("container_manager_dashboard:bulk_act", bulk.pk)
        if not selected:
            messages.warning(request, _("No job is selected."))
        else:
            report(request, act_on_some(selected, act, user=request.user, reason=reason, using=using))
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    return redirect(back)


def allowed_acts(user: Any) -> list[JobAct]:
    """Return the acts of the list for which the user has the permission; each job is asked again."""
    return [act for act in JobAct if may(user, act.permission)]


def _ask(request: HttpRequest, search: Search, act: JobAct, reason: str, back: str) -> HttpResponse:
    count = JobSearch(visible_jobs(request.user, using=router.db_for_read(ContainerJob)), search).count()
    context = {
        **page_context("jobs", _("Are you sure?")),
        "act": act,
        "count": str(count),
        "q": str(search),
        "reason": reason,
        "back": back,
    }
    return render(request, "container_manager_dashboard/ask.html", context)


def _filters(search: Search, *, queues: Sequence[str]) -> Iterator[Mapping[str, object]]:
    """Yield the groups of links that narrow the search, or widen it again."""
    has_reason = "failed" in search.values("status") or search.values("reason")
    groups: Sequence[tuple[str, str, Sequence[tuple[str, object]]]] = (
        (_("Status"), "status", JobStatus.choices),
        (_("Queue"), "queue", [(name, name) for name in queues]),
        (_("Failed by"), "reason", FailureReason.choices if has_reason else ()),
    )
    for label, qualifier, values in groups:
        if qualifier in QUALIFIERS and values:
            chosen = search.values(qualifier)
            others = search.without(qualifier)
            links = [
                {
                    "label": text,
                    # One value at a time, which an index serves.
                    "search": str(others if value in chosen else others.toggled(qualifier, str(value))),
                    "is_on": value in chosen,
                }
                for value, text in values
            ]
            yield {"label": label, "links": links}

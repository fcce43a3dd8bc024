"""The page of one job, and the acts of its buttons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import router
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _

from ..jobs.printable import escaped
from ..jobs.progress_lines import progress_of
from ..jobs.spec import JSON_FIELDS, PRIVATE_FIELDS, JobSpec
from ..models import ContainerJob
from ..queue import explain
from .access import Act, may, visible_jobs
from .job_acts import ActRefused, JobAct, act_on, legal_acts
from .live import live_page
from .log_page import last_lines
from .page import page, page_context
from .state_picture import state_picture
from .timeline import attempt_bars, steps

_REGIONS = {
    name: f"container_manager_dashboard/job_{name}.html"
    for name in ("header", "progress", "explanation", "picture", "timeline", "attempts")
}
# In the header of the page.
_IN_HEADER = ("name", "labels")
# Of a job that has been retried very often.
_MOST_TRANSITIONS, _MOST_ATTEMPTS = 200, 50
# An open attempt's bar grows by so many seconds at once, so that not every look finds a change.
_TICK_SECONDS = 5
_COMMANDS = ("show", "explain", "logs --follow", "history", "retry", "cancel")


@page()
def job(request: HttpRequest, key: UUID) -> HttpResponse:
    """Show a job: what may be done to it, why it is as it is, its way so far, its output and what it was asked."""
    found = visible_job(request, key)
    transitions = list(found.transitions.order_by("-id")[:_MOST_TRANSITIONS])[::-1]
    attempts = list(found.attempts.order_by("-number")[:_MOST_ATTEMPTS])[::-1]
    sees_output = may(request.user, Act.SEE_OUTPUT)
    runs = any(attempt.finished_at is None for attempt in attempts)
    context: dict[str, Any] = {
        **page_context("jobs", found.name or str(found.pk), interval=1 if not found.is_finished else 5),
        "job": found,
        "acts": legal_acts(request.user, found, runs=runs),
        "may_act": any(may(request.user, act.permission) for act in JobAct),
        "explanation": explain(found, quotes_errors=sees_output),
        "picture": state_picture(found.status, [(each.from_status, each.to_status) for each in transitions]),
        "steps": steps(transitions),
        "progress": progress_of(attempts[-1].progress) if attempts and sees_output and not found.is_queued else None,
        "bars": attempt_bars(found, attempts, transitions, now=_tick()),
        "attempts": attempts,
        "spec": [(name, value) for name, value in _spec(found) if name not in (*_IN_HEADER, *PRIVATE_FIELDS)],
        "private": [(name, getattr(found, name)) for name in PRIVATE_FIELDS],
        "sees_environment": may(request.user, Act.SEE_ENVIRONMENT),
        "sees_output": sees_output,
        "commands": [f"manage.py container {verb} {found.pk}" for verb in _COMMANDS],
    }
    # The script loads it anyway; a queued job's page has no statement to spare.
    if sees_output and "live" not in request.GET and attempts and not found.is_queued:
        context["log"] = last_lines(attempts[-1])
    return live_page(request, "container_manager_dashboard/job.html", context, regions=_REGIONS)


@page(method="POST")
def act_on_job(request: HttpRequest, key: UUID) -> HttpResponse:
    """Do what a button of the job's page says, unless the job has changed since the page was shown."""
    found = visible_job(request, key, writes=True)
    try:
        act, version = JobAct(request.POST.get("act", "")), int(request.POST.get("version", ""))
    except ValueError as error:
        return HttpResponseBadRequest(escaped(error), content_type="text/plain; charset=utf-8")
    try:
        if version != found.status_version:
            text = _("Nothing was done: meanwhile this job has changed and is %(status)s now.")
            raise ActRefused(text % {"status": found.get_status_display()})
        shown = act_on(found, act, user=request.user, reason=request.POST.get("reason", ""))
    except ActRefused as refusal:
        messages.error(request, escaped(refusal))
        return redirect("container_manager_dashboard:job", key)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
        return redirect("container_manager_dashboard:job", key)
    if shown.pk != key:
        messages.success(request, _("This job runs the finished one again."))
    else:
        messages.success(request, _("Done: this job is %(status)s now.") % {"status": shown.get_status_display()})
    return redirect("container_manager_dashboard:job", shown.pk)


def visible_job(request: HttpRequest, key: UUID, *, writes: bool = False) -> ContainerJob:
    """Return a job that the user may see. Raises Http404: whether there are others is not told."""
    using = router.db_for_write(ContainerJob) if writes else router.db_for_read(ContainerJob)
    found: ContainerJob | None = visible_jobs(request.user, using=using).filter(pk=key).first()
    if found is None:
        raise Http404(_("There is no such job, or you may not see it."))
    return found


def _spec(job: ContainerJob) -> Sequence[tuple[str, object]]:
    """Return what was asked, by field, as far as it differs from the default."""
    defaults: Mapping[str, object] = JobSpec._field_defaults
    return [
        (name, json.dumps(value, ensure_ascii=False) if name in JSON_FIELDS else value)
        for name, value in job.spec._asdict().items()
        if value != defaults[name]
    ]


def _tick() -> Any:
    now = timezone.now()
    return now - timedelta(seconds=now.second % _TICK_SECONDS, microseconds=now.microsecond)

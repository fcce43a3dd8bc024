"""What failed lately, grouped by what failed: the same reason and a message of the same shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.db import router
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from ..models import ContainerJob, FailureReason
from .access import Act, may, visible_jobs
from .jobs_page import allowed_acts
from .live import live_page
from .page import page, page_context
from .search import JobSearch, parse

# So many of the last failures are looked at; a button holds their keys.
_EXAMINED = 500
_MESSAGE_LENGTH = 300
_SHOWN = 5
_FAILED = parse("status:failed")
# What differs between two failures of one kind: quoted words, ids and paths with digits, numbers.
_DIFFERING = re.compile(r"""'[^']*'|"[^"]*"|\b[0-9a-f]{8,}(?:-[0-9a-f]+)*\b|\d+(?:\.\d+)*""")


@dataclass(slots=True, kw_only=True)
class FailureGroup:
    """Failed jobs of one kind, the newest first."""

    reason: str
    exit_code: int | None
    shape: str
    jobs: list[ContainerJob] = field(default_factory=list)

    @property
    def label(self) -> str:
        return str(FailureReason(self.reason).label) if self.reason in FailureReason else self.reason

    @property
    def queues(self) -> Sequence[str]:
        return sorted({job.queue for job in self.jobs})

    @property
    def keys(self) -> str:
        """The jobs' keys, as the value of a button."""
        return " ".join(str(job.pk) for job in self.jobs)

    @property
    def shown(self) -> Sequence[ContainerJob]:
        return self.jobs[:_SHOWN]


def grouped(failed: Iterable[tuple[ContainerJob, str]]) -> list[FailureGroup]:
    """Return the groups of failed jobs, each with its message, the largest first."""
    found = dict[tuple[str, int | None, str], FailureGroup]()
    for job, message in failed:
        key = (job.failure_reason, job.exit_code, shape_of(message))
        group = found.setdefault(key, FailureGroup(reason=key[0], exit_code=key[1], shape=key[2]))
        group.jobs.append(job)
    return sorted(found.values(), key=lambda group: -len(group.jobs))


def shape_of(message: str) -> str:
    """Return the first line of a message, with … for what differs between two failures of one kind."""
    return _DIFFERING.sub("…", (message.strip().splitlines() or [""])[0])


@page()
def failures(request: HttpRequest) -> HttpResponse:
    """Show the groups of the last failures, and act on a group."""
    using = router.db_for_read(ContainerJob)
    last = JobSearch(visible_jobs(request.user, using=using), _FAILED).page(size=_EXAMINED).rows
    message = Left("last_error", _MESSAGE_LENGTH)
    found = ContainerJob.objects.using(using).filter(pk__in=[job.pk for job in last])
    # A message may quote output: without it a group is of a reason and an exit code.
    sees_output = may(request.user, Act.SEE_OUTPUT)
    messages = dict(found.order_by().values_list("pk", message)) if sees_output else {}
    groups = grouped((job, messages.get(job.pk, "")) for job in last)
    context = {
        **page_context("failures", _("Failures"), interval=10),
        "groups": groups,
        "count": sum(len(group.jobs) for group in groups),
        "most": _EXAMINED,
        "acts": [act for act in allowed_acts(request.user) if act in ("retry", "cancel")],
    }
    regions = {"groups": "container_manager_dashboard/failures_groups.html"}
    return live_page(request, "container_manager_dashboard/failures.html", context, regions=regions)

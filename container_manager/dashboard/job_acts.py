"""What may be done to one job and to some: each act checks permissions and status, and says what it refused.

The admin does the same where the dashboard's app is not installed; only then there is no audit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .. import queue
from ..jobs.printable import escaped, validate_words
from ..models import JOB_TRANSITIONS, ContainerJob, JobAttempt, JobStatus
from ..querysets import ContainerJobQuerySet
from ..statemachine import TransitionError
from ..statemachine.deadlocks import retry_deadlocks
from ..statemachine.machine import actor_name
from ..store.notifications import wake_workers
from .access import Act, can_see, may, require, visible_jobs

MOST_SELECTED = 1000


class JobAct(StrEnum):
    """An act on jobs; ``label`` and ``permission`` are for buttons."""

    QUEUE = "queue"
    RETRY = "retry"
    CANCEL = "cancel"
    KILL = "kill"

    @property
    def label(self) -> Promise:
        """What a button says."""
        return _LABELS[self]

    @property
    def permission(self) -> Act:
        """Which permission it needs: to queue a pending job is to submit it."""
        return _PERMISSIONS[self]


_LABELS = {
    JobAct.QUEUE: gettext_lazy("Queue"),
    JobAct.RETRY: gettext_lazy("Run again"),
    JobAct.CANCEL: gettext_lazy("Cancel"),
    JobAct.KILL: gettext_lazy("Cancel now"),
}
_PERMISSIONS = {
    JobAct.QUEUE: Act.SUBMIT,
    JobAct.RETRY: Act.RETRY,
    JobAct.CANCEL: Act.CANCEL,
    JobAct.KILL: Act.CANCEL,
}
# Those that the map has no edge from.
AGAIN_AS_NEW = tuple(status for status in JobStatus if not JOB_TRANSITIONS[status])


class ActRefused(Exception):
    """The job's status does not allow it, or no longer does; the message says so to a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """The result for some jobs: how many changed, and how many were refused for which reason."""

    changed: int
    refused: Counter[str]


def legal_acts(user: Any, job: ContainerJob, *, runs: bool | None = None) -> tuple[JobAct, ...]:
    """Return the acts that the job's status and the user's permissions allow: the buttons of its page.

    To cancel at once is among them only where something runs: else it is no more than to cancel. ``runs``: whether
    there is an open attempt; None: one query finds out.
    """
    acts = [act for act in JobAct if _is_legal(act, job) and may(user, act.permission)]
    if JobAct.KILL in acts:
        if runs is None:
            runs = job.attempts.filter(finished_at=None).exists()
        acts = [act for act in acts if runs or act != JobAct.KILL]
    return tuple(acts) if acts and can_see(user, job) else ()


def act_on(job: ContainerJob, act: JobAct, *, user: Any, reason: str = "") -> ContainerJob:
    """Do it to one job; return the job to show then, which is a new one where a finished job is run again.

    Raises PermissionDenied; ActRefused, as for a button of a stale page; ValidationError for a reason with control
    characters.
    """
    require(user, act.permission, job)
    validate_words(actor=actor_name(user), reason=reason)
    if not _is_legal(act, job):
        raise ActRefused(_refusal(job.status))
    using = router.db_for_write(ContainerJob, instance=job)
    try:
        with transaction.atomic(using=using):
            if act == JobAct.RETRY:
                return queue.retry(job, actor=user, reason=reason)
            if act == JobAct.QUEUE:
                job.mark_as_queued(actor=user, reason=reason)
                wake_workers(using=using)
            else:
                queue.cancel(job, now=act == JobAct.KILL, actor=user, reason=reason)
            if act == JobAct.KILL:
                audit(user, act, str(job.pk), reason, using)
    except TransitionError as error:
        job.refresh_from_db()
        raise ActRefused(_refusal(job.status)) from error
    return job


def act_on_some(jobs: Collection[UUID], act: JobAct, *, user: Any, reason: str = "", using: str | None = None) -> Acted:
    """Do it to the selected jobs of a page, all at once. Raises PermissionDenied and ValidationError.

    Jobs that the user cannot see count as refused, as those do that do not exist.
    """
    require(user, act.permission)
    validate_words(actor=actor_name(user), reason=reason)
    if len(jobs) > MOST_SELECTED:
        raise ValidationError(_("At most %s jobs can be selected; act on all that match instead.") % MOST_SELECTED)
    using = using or router.db_for_write(ContainerJob)

    def work() -> Acted:
        with transaction.atomic(using=using):
            seen = list(visible_jobs(user, using).filter(pk__in=jobs).values_list("pk", flat=True))
            acted = act_on_keys(seen, act, user, reason, again=AGAIN_AS_NEW, using=using)
            if missing := len(set(jobs)) - len(seen):
                acted.refused[_("There is no such job.")] += missing
            if act == JobAct.KILL and acted.changed:
                audit(user, act, _("%s jobs") % acted.changed, reason, using)
            return acted

    return retry_deadlocks(work, using=using)


def act_on_keys(
    keys: Collection[UUID], act: JobAct, user: Any, reason: str, *, again: Collection[str], using: str
) -> Acted:
    """Act on jobs in the caller's transaction; ``again``: of which statuses to run jobs again as new ones."""
    jobs = ContainerJob.objects.using(using).filter(pk__in=keys)
    if act == JobAct.RETRY:
        return _retry_keys(jobs, user, reason, again=again)
    if act == JobAct.QUEUE:
        moved = jobs.transition_to(JobStatus.QUEUED, reason=reason, actor=user)
        wake_workers(using=using)
        return Acted(changed=moved.changed, refused=_refusals(moved.refused.values()))
    moved = jobs.transition_to(JobStatus.CANCELLED, reason=reason, actor=user)
    changed, statuses = moved.changed, list(moved.refused.values())
    if act == JobAct.KILL:
        gone = [key for key, status in moved.refused.items() if status == JobStatus.CANCELLED]
        ending = JobAttempt.objects.using(using).filter(job__in=gone, finished_at=None, kill_requested_at=None)
        killed = set(ending.values_list("job", flat=True))
        queue.kill([key for key in keys if key not in moved.refused or key in killed], using=using)
        changed += len(killed)
        statuses = [status for key, status in moved.refused.items() if key not in killed]
    return Acted(changed=changed, refused=_refusals(statuses))


def _retry_keys(jobs: ContainerJobQuerySet, user: Any, reason: str, *, again: Collection[str]) -> Acted:
    moved = jobs.transition_to(JobStatus.RETRYING, reason=reason, actor=user)
    failed = jobs.filter(status=JobStatus.RETRYING).exclude(pk__in=list(moved.refused))
    # It is due now, not when its last retry was.
    failed.update(scheduled_for=None)
    failed.transition_to(JobStatus.QUEUED, reason=reason, actor=user)
    again_as_new = [key for key, status in moved.refused.items() if status in again]
    for job in jobs.filter(pk__in=again_as_new):
        queue.retry(job, actor=user, reason=reason)
    wake_workers(using=jobs.db)
    left = [status for status in moved.refused.values() if status not in again]
    return Acted(changed=moved.changed + len(again_as_new), refused=_refusals(left))


def _is_legal(act: JobAct, job: ContainerJob) -> bool:
    if act == JobAct.QUEUE:
        return job.status == JobStatus.PENDING
    if act == JobAct.RETRY:
        return job.is_finished
    # What runs of a cancelled job has its grace period, unless somebody asks for less.
    return job.can_transition_to(JobStatus.CANCELLED) or (act == JobAct.KILL and job.status == JobStatus.CANCELLED)


def _refusals(statuses: Iterable[object]) -> Counter[str]:
    return Counter(_refusal(str(status)) for status in statuses)


def _refusal(status: str) -> str:
    return _("It is %s now, which does not allow this.") % JobStatus(status).label.lower()


def report(request: HttpRequest, acted: Acted) -> None:
    """Say in messages how many jobs changed, and how many were left alone for which reason."""
    if acted.changed:
        text = ngettext("%(count)d job changed.", "%(count)d jobs changed.", acted.changed)
        messages.success(request, text % {"count": acted.changed})
    for why, count in acted.refused.items():
        text = ngettext("%(count)d job was left alone: %(why)s", "%(count)d jobs were left alone: %(why)s", count)
        messages.warning(request, text % {"count": count, "why": escaped(why)})


def audit(user: Any, act: str, subject: str, reason: str, using: str) -> None:
    """Keep an act that the journal does not hold, where the dashboard's app is installed."""
    if apps.is_installed(__package__):
        from .models import AuditEntry

        AuditEntry.objects.using(using).create(
            actor=actor_name(user), act=str(act), subject=subject[:255], reason=reason
        )

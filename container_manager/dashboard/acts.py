"""What the dashboard and its API do: act on one job, on some, on all that match a search; pause and resume queues.

Each function checks the user's permissions itself. Transitions are in the journal with their user; what the journal
does not hold (kills, pauses, acts on all that match) is in `container_manager.dashboard.models.AuditEntry`.

An act on all that match is a row, `BulkAct`, and is done in batches. A batch is one transaction: it locks the row,
moves some jobs, and stores how far it has come. So each is done once, wherever a process dies, and however many
`advance` it: the requests that show its progress, and the workers' maintainer, which finishes what nobody watches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .. import queue
from ..models import ContainerJob, JobAttempt, JobStatus
from ..querysets import ContainerJobQuerySet
from ..queue.entry import check_words
from ..statemachine import TransitionError
from ..statemachine.deadlocks import retry_deadlocks
from ..statemachine.machine import actor_name
from ..store.notifications import wake_workers
from .access import Act, can_see, may, require, visibility_rule, visible_jobs
from .models import AuditEntry, BulkAct
from .search import Search, SearchError, first_cursor, keys_page, parse

# Jobs of one transaction: short enough that workers wait for their rows no longer than for each other.
_BATCH = 500
# Each of these is inserted by statements of its own.
_BATCH_OF_NEW = 100
_MOST_SELECTED = 1000


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
_AGAIN_AS_NEW = (JobStatus.COMPLETED, JobStatus.CANCELLED)


class ActRefused(Exception):
    """The job's status does not allow it, or no longer does; the message says so to a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """The result for some jobs: how many changed, and how many were refused for which reason."""

    changed: int
    refused: Counter[str]


def legal_acts(user: Any, job: ContainerJob) -> tuple[JobAct, ...]:
    """Return the acts that the job's status and the user's permissions allow: the buttons of its page."""
    acts = tuple(act for act in JobAct if _is_legal(act, job) and may(user, act.permission))
    return acts if acts and can_see(user, job) else ()


def act_on(job: ContainerJob, act: JobAct, *, user: Any, reason: str = "") -> ContainerJob:
    """Do it to one job; return the job to show then, which is a new one where a finished job is run again.

    Raises PermissionDenied; ActRefused, as for a button of a stale page; ValidationError for a reason with control
    characters.
    """
    require(user, act.permission, job)
    check_words(actor=user, reason=reason)
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
                _audit(user, act, str(job.pk), reason, using)
    except TransitionError as error:
        job.refresh_from_db()
        raise ActRefused(_refusal(job.status)) from error
    return job


def act_on_some(jobs: Collection[UUID], act: JobAct, *, user: Any, reason: str = "", using: str | None = None) -> Acted:
    """Do it to the selected jobs of a page, all at once. Raises PermissionDenied and ValidationError.

    Jobs that the user cannot see count as refused, as those do that do not exist.
    """
    require(user, act.permission)
    check_words(actor=user, reason=reason)
    if len(jobs) > _MOST_SELECTED:
        raise ValidationError(_("At most %s jobs can be selected; act on all that match instead.") % _MOST_SELECTED)
    using = using or router.db_for_write(ContainerJob)

    def work() -> Acted:
        with transaction.atomic(using=using):
            seen = list(visible_jobs(user, using).filter(pk__in=jobs).values_list("pk", flat=True))
            acted = _act_on_keys(seen, act, user, reason, again=_AGAIN_AS_NEW, using=using)
            if missing := len(set(jobs)) - len(seen):
                acted.refused[_("There is no such job.")] += missing
            if act == JobAct.KILL and acted.changed:
                _audit(user, act, _("%s jobs") % acted.changed, reason, using)
            return acted

    return retry_deadlocks(work, using=using)


def act_on_all(search: Search, act: JobAct, *, user: Any, reason: str = "", using: str | None = None) -> BulkAct:
    """Begin to do it to all jobs that match now; return the row with its progress. `advance` does the work.

    To run again takes failed jobs; completed and cancelled ones, which run again as new jobs, only where the search
    names their status. Raises PermissionDenied, ValidationError, and SearchError for a search that is too long to keep.
    """
    require(user, act.permission)
    check_words(actor=user, reason=reason)
    using = using or router.db_for_write(ContainerJob)
    # As each batch reads it.
    search = parse(str(search.frozen()))
    bulk = BulkAct(
        user=str(user.pk),
        actor=actor_name(user),
        act=act.value,
        search=str(search),
        reason=reason,
        cursor=first_cursor(visible_jobs(user, using), search),
    )
    with transaction.atomic(using=using):
        bulk.save(using=using, force_insert=True)
        _audit(user, act, f"{_('all that match')} {search}".strip(), reason, using)
    return bulk


def visible_bulk_acts(user: Any, using: str | None = None) -> QuerySet[BulkAct]:
    """Return the bulk acts that a user may see: all, or one's own where the project has a rule of who sees what."""
    bulks = BulkAct.objects.using(using or router.db_for_write(ContainerJob)).all()
    if not may(user, Act.VIEW):
        return bulks.none()
    return bulks.filter(user=str(user.pk)) if visibility_rule() else bulks


def advance(bulk: BulkAct, *, user: Any = None, seconds: float = 1.0) -> None:
    """Do batches of a bulk act for about so long, at least one, and refresh it.

    Any number of processes may: while one does a batch, the others have nothing to do. Raises PermissionDenied for a
    ``user`` who may not do what it does; each batch has the permissions of who began it.
    """
    if user is not None:
        require(user, JobAct(bulk.act).permission)
    using, until = bulk._state.db or router.db_for_write(BulkAct), time.monotonic() + seconds
    while retry_deadlocks(lambda: _do_batch(bulk.pk, using), using=using) and time.monotonic() < until:
        pass
    bulk.refresh_from_db(using=using)


def advance_unfinished(*, seconds: float, using: str) -> bool:
    """Go on with the oldest bulk act that has not finished; return whether there was one."""
    bulk = BulkAct.objects.using(using).filter(finished_at=None).order_by("pk").first()
    if bulk is not None:
        advance(bulk, seconds=seconds)
    return bulk is not None


def stop(bulk: BulkAct, *, user: Any) -> None:
    """End a bulk act where it is; what it has changed stays changed. Raises PermissionDenied.

    Who may do what it does may end it.
    """
    require(user, JobAct(bulk.act).permission)
    note = _("Stopped by %s.") % actor_name(user)
    using = router.db_for_write(BulkAct, instance=bulk)
    BulkAct.objects.using(using).filter(pk=bulk.pk, finished_at=None).update(finished_at=timezone.now(), note=note)
    bulk.refresh_from_db(using=using)


def set_paused(name: str, *, paused: bool, user: Any, reason: str = "", using: str | None = None) -> bool:
    """Pause a queue or resume it; return whether that changed anything. Raises PermissionDenied, ValidationError."""
    require(user, Act.PAUSE_QUEUES)
    check_words(actor=user, reason=reason)
    using = using or router.db_for_write(ContainerJob)
    with transaction.atomic(using=using):
        if paused:
            changed = queue.pause_queue(name, by=actor_name(user), using=using)
        else:
            changed = queue.resume_queue(name, using=using)
        if changed:
            _audit(user, "pause" if paused else "resume", name, reason, using)
    return changed


def _do_batch(key: UUID, using: str) -> bool:
    """Do the next batch of a bulk act; return whether there is more to do for this process."""
    rows = BulkAct.objects.using(using).filter(pk=key, finished_at=None)
    with transaction.atomic(using=using):
        if connections[using].features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        else:
            # A write first, so that the next one waits for this transaction to end.
            rows.update(finished_at=None)
        bulk = rows.first()
        if bulk is None:
            return False
        act, user = JobAct(bulk.act), _user(bulk.user)
        try:
            if user is None:
                raise PermissionDenied(_("The user is gone, or no longer active."))
            require(user, act.permission)
            search = parse(bulk.search)
            named = [status for status in _AGAIN_AS_NEW if status in search.values("status")]
            size = _BATCH_OF_NEW if act == JobAct.RETRY and named else _BATCH
            keys, bulk.cursor = keys_page(visible_jobs(user, using), search, bulk.cursor, size)
        except (PermissionDenied, SearchError, ImproperlyConfigured) as error:
            # It would be the same the next time, and others wait behind it.
            bulk.finished_at, bulk.note = timezone.now(), str(error)
            bulk.save(using=using)
            return False
        acted = _act_on_keys(keys, act, user, bulk.reason, again=named, using=using)
        bulk.examined += len(keys)
        bulk.changed += acted.changed
        bulk.refused = dict(Counter(bulk.refused) + acted.refused)
        if not bulk.cursor:
            bulk.finished_at = timezone.now()
        bulk.save(using=using)
        return bool(bulk.cursor)


def _user(key: str) -> Any:
    users = get_user_model()._default_manager
    user = users.filter(pk=key).first()
    return user if user is not None and user.is_active else None


def _act_on_keys(
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
    anew = [key for key, status in moved.refused.items() if status in again]
    for job in jobs.filter(pk__in=anew):
        queue.retry(job, actor=user, reason=reason)
    wake_workers(using=jobs.db)
    left = [status for status in moved.refused.values() if status not in again]
    return Acted(changed=moved.changed + len(anew), refused=_refusals(left))


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


def _audit(user: Any, act: str, subject: str, reason: str, using: str) -> None:
    AuditEntry.objects.using(using).create(actor=actor_name(user), act=str(act), subject=subject[:255], reason=reason)

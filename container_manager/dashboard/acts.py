"""What the dashboard and its API do besides acts on some jobs: act on all that match a search, pause and resume queues.

Each function checks the user's permissions itself. Transitions are in the journal with their user; what the journal
does not hold (kills, pauses, acts on all that match) is in `container_manager.dashboard.models.AuditEntry`.

An act on all that match is a row, `BulkAct`, and is done in batches. A batch is one transaction: it locks the row,
moves some jobs, and stores how far it has come. So each is done once, wherever a process dies, and however many
`advance` it: the requests that show its progress, and the workers' maintainer, which finishes what nobody watches.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from .. import queue
from ..jobs.printable import validate_words
from ..models import ContainerJob
from ..statemachine.deadlocks import retry_deadlocks
from ..statemachine.machine import actor_name
from .access import Act, may, require, visibility_rule, visible_jobs
from .job_acts import AGAIN_AS_NEW, JobAct, act_on_keys, audit
from .models import BulkAct
from .search import JobSearch, Search, SearchError, parse

# Jobs of one transaction: short enough that workers wait for their rows no longer than for each other.
_BATCH = 500
# Each of these is inserted by statements of its own.
_BATCH_OF_NEW = 100


def act_on_all(search: Search, act: JobAct, *, user: Any, reason: str = "", using: str | None = None) -> BulkAct:
    """Begin to do it to all jobs that match now; return the row with its progress. `advance` does the work.

    To run again takes failed jobs; completed and cancelled ones, which run again as new jobs, only where the search
    names their status. Raises PermissionDenied, ValidationError, and SearchError for a search that is too long to keep.
    """
    require(user, act.permission)
    validate_words(actor=actor_name(user), reason=reason)
    using = using or router.db_for_write(ContainerJob)
    # As each batch reads it.
    search = parse(str(search.frozen()))
    bulk = BulkAct(
        user=str(user.pk),
        actor=actor_name(user),
        act=act.value,
        search=str(search),
        reason=reason,
        cursor=JobSearch(visible_jobs(user, using), search).first_cursor(),
    )
    with transaction.atomic(using=using):
        bulk.save(using=using, force_insert=True)
        audit(user, act, f"{_('all that match')} {search}".strip(), reason, using)
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
    validate_words(actor=actor_name(user), reason=reason)
    using = using or router.db_for_write(ContainerJob)
    with transaction.atomic(using=using):
        if paused:
            changed = queue.pause_queue(name, by=actor_name(user), using=using)
        else:
            changed = queue.resume_queue(name, using=using)
        if changed:
            audit(user, "pause" if paused else "resume", name, reason, using)
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
            named = [status for status in AGAIN_AS_NEW if status in search.values("status")]
            size = _BATCH_OF_NEW if act == JobAct.RETRY and named else _BATCH
            keys, bulk.cursor = JobSearch(visible_jobs(user, using), search).keys(bulk.cursor, size)
        except (PermissionDenied, SearchError, ImproperlyConfigured) as error:
            # It would be the same the next time, and others wait behind it.
            bulk.finished_at, bulk.note = timezone.now(), str(error)
            bulk.save(using=using)
            return False
        acted = act_on_keys(keys, act, user, bulk.reason, again=named, using=using)
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

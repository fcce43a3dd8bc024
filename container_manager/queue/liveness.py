"""Say whether workers live, and whether engines answer them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils.translation import gettext as _

from ..jobs.time_words import between, moment
from ..models import Worker
from ..querysets import DatabaseNow
from .explanation import quoted


def workers_alive(using: str) -> Sequence[Worker]:
    """Return the workers whose lease has not expired, the oldest first."""
    return list(Worker.objects.using(using).filter(lease_expires_at__gte=DatabaseNow()).order_by("started_at", "pk"))


def has_expired(worker: Worker, now: datetime) -> bool:
    """Tell whether a worker's lease has expired."""
    return between(worker.lease_expires_at, now).total_seconds() > 0


def lease_evidence(name: str, worker: Worker | None, now: datetime) -> list[str]:
    """Say whether the worker of this name lives; None: it has no row."""
    if worker is None:
        return [_("Worker %s has no row any more: it has ended, or was taken for dead.") % name]
    values = {"id": worker.pk, "host": worker.host, "pid": worker.pid, "time": moment(worker.lease_expires_at, now)}
    if not has_expired(worker, now):
        return [_("Worker %(id)s (process %(pid)s on %(host)s) lives; its lease lasts until %(time)s.") % values]
    lines = [_("The lease of worker %(id)s (process %(pid)s on %(host)s) expired at %(time)s.") % values]
    if worker.rescuable_at is not None and between(now, worker.rescuable_at).total_seconds() > 0:
        lines.append(_("Others leave it its local processes until %s.") % moment(worker.rescuable_at, now))
    return lines


def away_since(worker: Worker, executor: str, now: datetime) -> str:
    """Write since when an engine has not answered a worker; "" if it answers."""
    since = (worker.engines_away or {}).get(executor)
    if since is None:
        return ""
    try:
        return moment(datetime.fromisoformat(str(since)), now)
    except ValueError:
        return quoted(str(since))

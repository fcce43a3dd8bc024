"""Tell waiting workers that there is something to do: by NOTIFY on PostgreSQL. Only a hint; they poll all the same."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import connections, transaction

from ..models import JobStatus
from ..signals import job_transitioned
from ..statemachine import Transition

CHANNEL = "container_manager"
READY, CANCELLED = "ready", "cancelled"


def wake_workers(hint: str = READY, *, using: str) -> None:
    """Send the hint once the transaction commits: that jobs are ready, or that some were cancelled."""
    if connections[using].vendor == "postgresql":
        transaction.on_commit(partial(_notify, hint, using), using=using)


def _notify(hint: str, using: str) -> None:
    # In a transaction of its own, since a NOTIFY makes commits wait for each other; and nobody need wait until a hint
    # is on disk.
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)", [CHANNEL, hint])


def notice_transitions(transitions: tuple[Transition, ...], using: str, **kwargs: Any) -> None:
    """Wake workers for jobs that became ready, or were cancelled."""
    targets = {transition.target for transition in transitions}
    for target, hint in ((JobStatus.QUEUED, READY), (JobStatus.CANCELLED, CANCELLED)):
        if target in targets:
            wake_workers(hint, using=using)


def others_listen() -> bool:
    """Tell whether anybody but `notice_transitions` wants to know of transitions."""
    return len(job_transitioned.receivers) > int(_NOTICES)


# Not connected at all where no database could be told: a receiver costs each transition a little.
_NOTICES = any(settings["ENGINE"].endswith(("postgresql", "postgis")) for settings in connections.settings.values())
if _NOTICES:
    job_transitioned.connect(notice_transitions)

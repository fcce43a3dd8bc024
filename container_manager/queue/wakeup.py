"""Tell waiting workers that there is something to do: by NOTIFY on PostgreSQL. Only a hint; they poll all the same."""

from __future__ import annotations

from typing import Any

from django.db import connections

from ..models import JobStatus
from ..signals import job_transitioned
from ..statemachine import Transition

CHANNEL = "container_manager"


def wake_workers(*, using: str) -> None:
    """Send the hint, in a transaction of its own: a NOTIFY within another would make commits wait for each other."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


def notice_transitions(transitions: tuple[Transition, ...], using: str, **kwargs: Any) -> None:
    """Wake workers for jobs that became ready, or were cancelled."""
    if any(t.target in (JobStatus.QUEUED, JobStatus.CANCELLED) for t in transitions):
        wake_workers(using=using)


# Not connected at all where no database could be told: a receiver costs each transition a little.
if any(settings["ENGINE"].endswith(("postgresql", "postgis")) for settings in connections.settings.values()):
    job_transitioned.connect(notice_transitions)

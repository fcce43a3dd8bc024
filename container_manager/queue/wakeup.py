"""Tell waiting workers that there is something to do: by NOTIFY on PostgreSQL. Only a hint; they poll all the same."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.dispatch import receiver

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


@receiver(job_transitioned)
def notice_transitions(transitions: tuple[Transition, ...], using: str, **kwargs: Any) -> None:
    """Wake workers for jobs that became ready, or were cancelled."""
    if any(t.target in (JobStatus.QUEUED, JobStatus.CANCELLED) for t in transitions):
        wake_workers(using=using)

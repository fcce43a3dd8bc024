"""Pause queues and resume them."""

from __future__ import annotations

from django.db import router

from ..models import ContainerJob, PausedQueue
from ..store.notifications import wake_workers


def pause_queue(name: str, *, by: str = "", using: str | None = None) -> bool:
    """Let no worker claim jobs of this queue; running jobs go on. Return False if it was paused already.

    Raises ValidationError for what cannot be a queue's name.
    """
    PausedQueue(name=name, paused_by=by).clean_fields()
    # The routers are asked about jobs: workers look for a pause in their jobs' database.
    using = using or router.db_for_write(ContainerJob)
    return PausedQueue.objects.using(using).get_or_create(name=name, defaults={"paused_by": by})[1]


def resume_queue(name: str, *, using: str | None = None) -> bool:
    """Let workers claim jobs of this queue again; return whether it was paused."""
    using = using or router.db_for_write(ContainerJob)
    deleted, _ = PausedQueue.objects.using(using).filter(name=name).delete()
    wake_workers(using=using)
    return bool(deleted)


def paused_queues(*, using: str | None = None) -> list[str]:
    """Return the names of paused queues, sorted."""
    using = using or router.db_for_read(ContainerJob)
    return list(PausedQueue.objects.using(using).order_by("name").values_list("name", flat=True))

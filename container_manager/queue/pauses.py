"""Pause queues and resume them."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS

from ..models import PausedQueue
from ..store.notifications import wake_workers


def pause_queue(name: str, *, by: str = "", using: str = DEFAULT_DB_ALIAS) -> bool:
    """Let no worker claim jobs of this queue; running jobs go on. Return False if it was paused already."""
    return PausedQueue.objects.using(using).get_or_create(name=name, defaults={"paused_by": by})[1]


def resume_queue(name: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Let workers claim jobs of this queue again; return whether it was paused."""
    deleted, _ = PausedQueue.objects.using(using).filter(name=name).delete()
    wake_workers(using=using)
    return bool(deleted)


def paused_queues(*, using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Return the names of paused queues, sorted."""
    return list(PausedQueue.objects.using(using).order_by("name").values_list("name", flat=True))

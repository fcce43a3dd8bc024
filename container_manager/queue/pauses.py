"""Pause a queue and let it go on."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS

from ..models import PausedQueue
from ..store.notifications import wake_workers


def pause_queue(name: str, *, by: str = "", using: str = DEFAULT_DB_ALIAS) -> bool:
    """Let no worker take jobs from this queue; what runs goes on. Tell whether that is new."""
    return PausedQueue.objects.using(using).get_or_create(name=name, defaults={"paused_by": by})[1]


def resume_queue(name: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Let workers take jobs from this queue again; tell whether it was paused."""
    deleted, _ = PausedQueue.objects.using(using).filter(name=name).delete()
    wake_workers(using=using)
    return bool(deleted)


def paused_queues(*, using: str = DEFAULT_DB_ALIAS) -> list[str]:
    return list(PausedQueue.objects.using(using).order_by("name").values_list("name", flat=True))

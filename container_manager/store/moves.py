"""Announce the transitions that workers make: in the log, and by the signal `job_transitioned`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from django.utils import timezone

from ..models import ContainerJob
from ..statemachine import Transition
from ..statemachine.announcements import send_transitions, transitions_logged
from .notifications import others_listen

# A job's id, its status before and after, and the reason.
Move = tuple[uuid.UUID, str, str, str]


def announce(moves: Callable[[], Sequence[Move]], worker: str, using: str) -> None:
    """Log moves and send their signals; ``moves`` is called only if somebody wants to know."""
    # No worker waits for these moves, so a receiver that only wakes workers does not count.
    if not (others_listen() or transitions_logged()):
        return
    now = timezone.now()

    def transitions() -> tuple[Transition, ...]:
        return tuple(
            Transition(pk=pk, source=source, target=target, at=now, actor=worker, reason=reason)
            for pk, source, target, reason in moves()
        )

    send_transitions(ContainerJob, transitions, using=using)

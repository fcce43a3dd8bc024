"""Tell of committed transitions: the log, and receivers of the model's signal."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import transaction
from django.db.models import Model
from django.dispatch import Signal

from .machine import Transition

logger = logging.getLogger(__name__)


def transitions_logged() -> bool:
    """Tell whether each transition is a line of the log."""
    return logger.isEnabledFor(logging.INFO)


def send_transitions(model: type[Model], transitions: Callable[[], tuple[Transition, ...]], *, using: str) -> None:
    """Log a line per transition, at INFO, and send the model's ``transition_signal``, once the transaction commits.

    A receiver that raises is logged by Django's dispatcher: the status has moved, and the caller is told so.
    """
    signal: Signal | None = getattr(model, "transition_signal", None)
    logged = transitions_logged()
    # Not has_listeners(): that costs more than to send in vain.
    if signal is None or not (signal.receivers or logged):
        return

    def send() -> None:
        made = transitions()
        if logged:
            for move in made:
                logger.info("%s %s: %s -> %s", model._meta.object_name, move.pk, move.source, move.target)
        if made:
            signal.send_robust(sender=model, transitions=made, using=using)

    transaction.on_commit(send, using=using)

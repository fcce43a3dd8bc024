"""Tell receivers of committed transitions."""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction
from django.db.models import Model
from django.dispatch import Signal

from .machine import Transition


def send_transitions(model: type[Model], transitions: Callable[[], tuple[Transition, ...]], *, using: str) -> None:
    """Send the model's ``transition_signal`` when the transaction commits.

    A receiver that raises is logged by Django's dispatcher: the status has moved, and the caller is told so.
    """
    signal: Signal | None = getattr(model, "transition_signal", None)
    if signal is None or not signal.has_listeners(model):
        return

    def send() -> None:
        if made := transitions():
            signal.send_robust(sender=model, transitions=made, using=using)

    if transaction.get_connection(using).get_autocommit():
        send()
    else:
        transaction.on_commit(send, using=using)

"""Announce committed transitions: to the log, and to receivers of the model's signal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.db import transaction
from django.db.models import Model
from django.dispatch import Signal

from .machine import Transition

logger = logging.getLogger(__name__)
# Calls what sends a signal: at once, or somewhere else.
_sender: ContextVar[Callable[[Callable[[], object]], object]] = ContextVar("sender", default=lambda send: send())


def transitions_logged() -> bool:
    """Tell whether transitions are logged."""
    return logger.isEnabledFor(logging.INFO)


def has_audience(model: type[Model]) -> bool:
    """Tell whether anybody is told of a model's transitions: the log, or a receiver of its ``transition_signal``."""
    signal: Signal | None = getattr(model, "transition_signal", None)
    # has_listeners() would take longer than sending to nobody.
    return signal is not None and (bool(signal.receivers) or transitions_logged())


@contextmanager
def sent_by(sender: Callable[[Callable[[], object]], object]) -> Iterator[None]:
    """Pass what sends a signal to ``sender`` meanwhile, in this context: receivers then run where that calls it."""
    token = _sender.set(sender)
    try:
        yield
    finally:
        _sender.reset(token)


def send_transitions(model: type[Model], transitions: Callable[[], tuple[Transition, ...]], *, using: str) -> None:
    """On commit, log a line per transition at INFO and send the model's ``transition_signal``.

    An error in a receiver is logged by Django's dispatcher and not raised: the transition is committed.
    """
    if not has_audience(model):
        return
    signal: Signal = model.transition_signal  # type: ignore[attr-defined]  # as has_audience() found
    logged = transitions_logged()

    def send() -> None:
        made = transitions()
        if logged:
            for move in made:
                reason = f" ({_one_line(move.reason)})" if move.reason else ""
                logger.info("%s %s: %s -> %s%s", model._meta.object_name, move.pk, move.source, move.target, reason)
        if made:
            _sender.get()(lambda: signal.send_robust(sender=model, transitions=made, using=using))

    transaction.on_commit(send, using=using)


def _one_line(text: str) -> str:
    """Return a text with what is not printable escaped: a reason may be anybody's, and must not forge other lines."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)

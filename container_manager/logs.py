"""Write committed transitions to the standard library's logging."""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import receiver

from .signals import job_transitioned
from .statemachine import Transition

logger = logging.getLogger(__name__)


@receiver(job_transitioned)
def log_transitions(transitions: tuple[Transition, ...], **kwargs: Any) -> None:
    """Log one line per transition, at INFO."""
    if logger.isEnabledFor(logging.INFO):
        for transition in transitions:
            logger.info("Job %s: %s -> %s", transition.pk, transition.source, transition.target)

"""Ask an executor whether it works, also where it cannot be built."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from ..conf import AppSettings
from ..executors.base import Health
from ..executors.registry import build_executor


def health_of(settings: AppSettings, alias: str) -> Health:
    """Return the health of an alias's executor."""
    try:
        executor = build_executor(settings, alias)
    except ImproperlyConfigured as error:
        return Health(ok=False, message=str(error))
    try:
        return executor.check()
    finally:
        executor.close()

"""Who takes part: each with its own tables, its own no-op task and its own worker, set up to be fast."""

from __future__ import annotations

from importlib import import_module

from .base import Contender

_MODULES = ("floor", "ours", "pgqueuer", "chancy", "procrastinate", "django_tasks_db")


def contenders() -> dict[str, Contender]:
    """Return the contenders by name."""
    found = [contender for module in _MODULES for contender in import_module(f"{__name__}.{module}").CONTENDERS]
    return {contender.name: contender for contender in found}

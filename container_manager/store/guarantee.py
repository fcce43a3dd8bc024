"""Whether the database holds the jobs' map and writes their journal."""

from __future__ import annotations

from ..models import ContainerJob
from ..statemachine.installation import drift


def missing_triggers(*, using: str, changed: bool = False) -> list[str]:
    """Return the names of the jobs' triggers that are missing or disabled, with ``changed`` also those that differ."""
    return drift(ContainerJob, using, missing_only=not changed)

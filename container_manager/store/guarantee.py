"""Whether the database holds the jobs' map and writes their journal."""

from __future__ import annotations

from ..models import ContainerJob
from ..statemachine.installation import drift, has_table


def missing_triggers(*, using: str, changed: bool = False) -> list[str]:
    """Return the names of the jobs' triggers that are missing or disabled, with ``changed`` also those that differ."""
    names = drift(ContainerJob, using, missing_only=not changed)
    # Without its table the database's own error says what to do.
    return names if names and has_table(ContainerJob, using) else []

"""One way of moving a job from queued to running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """``tuned`` marks one that saves only the columns it changed, which the peer's documentation does not do."""

    name: str
    model: Any
    run: Callable[[Any], object]
    tuned: bool = False


CHANGED = ("status", "launched_at")
TUNED = "save(update_fields)"

"""How long a test waits for what must come, and how: on a slow, noisy machine too, so only a failure takes so long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 120


def eventually(condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until a condition is true and return its value, where there is no event to wait for.

    ``seconds``: more patience, for very many jobs.
    """
    deadline = time.monotonic() + max(seconds, PATIENCE_SECONDS)
    while not (value := condition()):
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.02)
    return value

"""How long a test waits for what must come, and how: on a slow, noisy machine too, so only a failure takes so long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 120


def eventually(condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until a condition is true and return its value, where there is no event to wait for.

    ``seconds``: a longer time, for very many jobs.
    """
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        assert waited < max(seconds, PATIENCE_SECONDS), "It did not happen in time."
        # Many tests wait for seconds: the longer, the less often they look, so that they hold up others less.
        time.sleep(min(max(0.02, waited / 20), 0.1))
    return value

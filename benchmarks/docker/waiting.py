"""Wait for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.05


def eventually(condition: Callable[[], object], *, seconds: float = _PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("The worker did not come so far.")
        time.sleep(_PAUSE_SECONDS)

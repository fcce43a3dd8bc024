"""What the maintainer has counted, for tests that need no journal of it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from container_manager.store.aggregation import add_to_spans


def add_counts(minute: int, queue_name: str, *, kept: bool = True, **counts: Any) -> None:
    """Count what happened in a minute; to the totals alone if that is not ``kept``."""
    add_to_spans({(minute, queue_name): Counter(counts)}, kept=range(sys.maxsize if kept else 0), using="default")

"""Watch the other workers' leases: who is dead, and who only seems to be since the database's clock has jumped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..store import Lease


class LeaseWatch:
    """Remembers since when this worker has seen each lease unchanged, by its own monotonic clock.

    If the database's clock jumps ahead, all leases expire at once. But a live worker renews its lease every third of
    it, so one is dead only if it has also not done so for half a lease while this worker looked on.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._seconds = lease_seconds / 2
        self._seen: dict[str, tuple[Any, float]] = {}

    def dead(self, leases: Sequence[Lease]) -> list[str]:
        """Look at all leases of others; return the workers that are dead."""
        now, before = time.monotonic(), self._seen
        self._seen = {
            lease.worker: seen
            if (seen := before.get(lease.worker, (None, 0.0)))[0] == lease.expires_at
            else (lease.expires_at, now)
            for lease in leases
        }
        return [
            lease.worker for lease in leases if lease.has_expired and now - self._seen[lease.worker][1] >= self._seconds
        ]

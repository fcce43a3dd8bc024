"""For how long something has been so, as this worker has seen it: by its own monotonic clock, not by stored times."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from ..store import Lease

K = TypeVar("K", bound=Hashable)


class Sightings(Generic[K]):
    """Since when each thing has been there at every look. After a pause of ``gap_seconds`` counting starts again."""

    def __init__(self, gap_seconds: float) -> None:
        self._gap_seconds = gap_seconds
        self._looked_at = 0.0
        self._since: dict[K, float] = {}

    def look(self, things: Iterable[K]) -> dict[K, float]:
        """Look at all that is there now; return for how many seconds each has been."""
        now = time.monotonic()
        # Who could not look knows nothing of what others did meanwhile; perhaps they were cut off too.
        before = {} if now - self._looked_at > self._gap_seconds else self._since
        self._looked_at, self._since = now, {thing: before.get(thing, now) for thing in things}
        return {thing: now - since for thing, since in self._since.items()}


class LeaseWatch:
    """Tells who is dead, and not only seems to be since the database's clock has jumped.

    If that clock jumps ahead, all leases expire at once. But a live worker renews its lease every third of it, so one
    is dead only if it has also not done so for half a lease while this worker looked on.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._seconds = lease_seconds / 2
        self._sightings = Sightings[Lease](gap_seconds=lease_seconds)

    def dead(self, leases: Sequence[Lease]) -> list[str]:
        """Look at all leases of others; return the workers that are dead."""
        unchanged = self._sightings.look(lease._replace(is_over=False) for lease in leases)
        return [
            lease.worker
            for lease in leases
            if lease.is_over and unchanged[lease._replace(is_over=False)] >= self._seconds
        ]

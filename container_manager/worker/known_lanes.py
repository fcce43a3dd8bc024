"""The lanes that a worker knows to have due jobs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from .. import store
from .timers import Timer


class KnownLanes:
    """Looks for lanes when those that it knows have no more jobs, or if it knows none.

    A worker whose lanes have more than it can take looks every ``look_seconds``: so often it notices a queue that has
    jobs now, or a scheduled job that is due, of a higher priority. ``only``: one job is claimed by its key, in no lane.
    """

    def __init__(self, *, queues: Sequence[str] | None, only: UUID | None, using: str, look_seconds: float) -> None:
        self._queues, self._only, self._using = queues, only, using
        self._look = Timer(look_seconds)
        self._executors: Sequence[str] = ()
        self._lanes: Sequence[store.Lane] = ()
        self._looked = False

    def find(self, executors: Sequence[str]) -> Sequence[store.Lane]:
        """Return the lanes of these executors to claim from, after a look if it is time to."""
        self._looked = self._look.take_due() or executors != self._executors or not self._lanes
        if self._looked:
            self._find_lanes(executors)
        return self._lanes

    def find_more(self) -> bool:
        """Look for other lanes after a claim that left room; return whether there are any."""
        if self._looked:
            return False
        known = self._lanes
        self._find_lanes(self._executors)
        return not set(self._lanes) <= set(known)

    def _find_lanes(self, executors: Sequence[str]) -> None:
        self._executors = executors
        if self._only is None:
            self._lanes = store.due_lanes(executors=executors, queues=self._queues, using=self._using)
            self._look.restart()

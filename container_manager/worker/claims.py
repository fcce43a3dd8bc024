"""What a worker claims next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from .. import store
from .timers import Timer


class Claims:
    """Claims jobs from the lanes that it knows, and looks for others when these have no more, or if it knows none.

    A worker whose lanes have more than it can take looks every ``look_seconds``: so often it notices a queue that has
    jobs now, or a scheduled job that is due, of a higher priority.
    """

    def __init__(self, *, queues: Sequence[str] | None, only: UUID | None, using: str, look_seconds: float) -> None:
        self._queues, self._only, self._using = queues, only, using
        self._look = Timer(look_seconds)
        self._executors: Sequence[str] = ()
        self._lanes: Sequence[store.Lane] = ()
        self._looked = False

    def take(
        self,
        *,
        worker: str,
        executors: Sequence[str],
        engines: Mapping[str, str],
        besides: Collection[UUID],
        refused: store.OnRefused[UUID] | None,
        room: int,
    ) -> list[store.ClaimedJob]:
        """Claim up to ``room`` due jobs of these executors, but none of ``besides``; see `store.claim`."""
        self._looked = self._look.take_due() or executors != self._executors or not self._lanes
        if self._looked:
            self._find_lanes(executors)
        return store.claim(
            worker=worker,
            executors=executors,
            engines=engines,
            queues=self._queues,
            only=self._only,
            besides=besides,
            refused=refused,
            lanes=self._lanes,
            limit=room,
            using=self._using,
        )

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

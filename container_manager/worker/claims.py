"""When a worker claims jobs, and how many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from uuid import UUID

from .. import store
from ..jobs.package_log import package_logger
from .dashboard_notifier import DashboardNotifier
from .engines import Engines
from .known_lanes import KnownLanes
from .reports import Reports
from .runs import Runs
from .set_aside import SetAside
from .timers import Timer
from .worker_options import WorkerOptions

_FIRST_POLL_SECONDS = 0.05
logger = package_logger(__name__)


class Claims:
    """Claims as many due jobs as there is room for, and makes runs of them; polls less often while it finds none.

    ``queues``: those of the options, or else of the settings; None for all. ``may_claim``: tells whether the worker may
    claim anything now. ``count``: how many jobs were claimed. ``left_queued``: jobs that the last claim left queued,
    since the database refuses their claim. ``gave_up``: the executors whose engines were given up although jobs are due
    for them, if the worker ends by itself.
    """

    def __init__(
        self,
        engines: Engines,
        runs: Runs,
        reports: Reports,
        dashboards: DashboardNotifier,
        *,
        options: WorkerOptions,
        queues: Sequence[str] | None,
        poll_seconds: float,
        may_claim: Callable[[], bool],
    ) -> None:
        self._engines, self._runs, self._reports, self._dashboards = engines, runs, reports, dashboards
        self._options, self._queues, self._may_claim = options, queues, may_claim
        self._lanes = KnownLanes(queues=queues, only=options.only, using=options.using, look_seconds=poll_seconds)
        self._poll, self._poll_seconds = Timer(_FIRST_POLL_SECONDS), poll_seconds
        # Jobs whose claim the database refuses.
        self._unclaimable: SetAside[UUID] = SetAside(first_seconds=1.0, longest_seconds=600.0)
        self._nothing_due = False
        self.count = 0
        self.left_queued: set[UUID] = set()
        self.gave_up: list[str] = []

    @property
    def timers(self) -> Sequence[Timer]:
        """The timer to wait for, if there is room for a job."""
        return [self._poll] if self.room() else []

    def hurry(self) -> None:
        """Claim at the next turn: jobs may be due."""
        self._poll.hurry()

    def has_ended(self) -> bool:
        """Tell whether a worker that ends by itself need not claim any more."""
        options = self._options
        if options.only is not None and self.gave_up:
            return True
        if options.max_jobs is not None and self.count >= options.max_jobs:
            return True
        return options.drain and self._nothing_due

    def room(self) -> int:
        """Return how many jobs may be claimed now.

        An attempt whose end is being stored, or cannot be for now, needs no slot. If the database is slow, at most as
        many attempts as there are slots wait for it.
        """
        if not self._may_claim():
            return 0
        held, slots = len(self._runs), self._options.slots
        room = min(slots - (held - self._reports.count_unstored_ends()), 2 * slots - held)
        if self._options.max_jobs is not None:
            room = min(room, self._options.max_jobs - self.count)
        return max(0, room)

    def claim(self, worker: str) -> None:
        """Claim, if there is room and it is time to; ``worker`` is the id that the worker has at this moment."""
        room = self.room()
        if not room or not self._poll.take_due():
            return
        refusals: list[tuple[UUID, Exception]] = []
        passed_over = self._unclaimable.waiting()
        executors = self._engines.reachable
        jobs = store.claim(
            worker=worker,
            executors=executors,
            engines=self._engines.reachable_identities,
            queues=self._queues,
            only=self._options.only,
            besides=passed_over,
            # A worker of one job alone cannot go on without it.
            refused=None if self._options.only else lambda job, error: refusals.append((job, error)),
            lanes=self._lanes.find(executors),
            limit=room,
            using=self._options.using,
        )
        self.count += len(jobs)
        if jobs:
            self._dashboards.note_change()
        self.left_queued = passed_over.union(job for job, _ in refusals)
        for job, error in refusals:
            self._note_unclaimable(job, error)
        for claimed in jobs:
            try:
                self._runs.take_on(claimed)
            except Exception as error:
                self._reports.fail_odd_job(claimed, error, worker=worker)
        self._plan_next(len(jobs) + len(refusals), room)

    def _note_unclaimable(self, job: UUID, error: Exception) -> None:
        """Leave a job queued whose claim the database refuses, and say so in the log and in its row."""
        seconds = self._unclaimable.put(job)
        logger.error("The database refuses the claim of job %s, trying again in %s s: %s", job, seconds, error)
        store.note_refused_claim(job, str(error), using=self._options.using)

    def _plan_next(self, found: int, room: int) -> None:
        if found == room or self._lanes.find_more():
            self._poll = Timer(0.0)
            return
        self._note_due_elsewhere(found)
        # Poll less often while there is nothing to find; in the end only when the look for anything to do says so.
        pause = max(_FIRST_POLL_SECONDS, 0.0 if found else self._poll.seconds * 2)
        self._poll = Timer(min(pause, max(_FIRST_POLL_SECONDS, self._poll_seconds)))
        # A worker that ends by itself goes on asking: what is due may be for an engine that is given up by now.
        idle = pause >= self._poll_seconds and not (self._options.drain or self._options.only)
        self._poll.postpone(math.inf if idle else self._poll.seconds)

    def _note_due_elsewhere(self, found: int) -> None:
        """Note whether a worker that ends by itself may end: nothing is due, except for engines that are given up."""
        self._nothing_due = False
        if not found and (self._options.drain or self._options.only):
            # In this order: an engine that is given up between the two questions is in one of the answers.
            self._nothing_due = not any(self._is_due(alias) for alias in self._engines.away)
            self.gave_up = [alias for alias in self._engines.given_up if self._is_due(alias)]

    def _is_due(self, alias: str) -> bool:
        return store.is_due(executors=[alias], queues=self._queues, only=self._options.only, using=self._options.using)

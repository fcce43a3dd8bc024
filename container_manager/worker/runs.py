"""What a worker knows of an attempt that it holds."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from enum import Enum

from .. import store
from ..executors.base import Executor, ExitStatus
from .capped_output import CappedOutput
from .timers import Timer

# One read of an attempt's output takes at most this much.
_PAGE_BYTES = 1024 * 1024
# The worker has other things to do than to read one attempt's output.
_PAGES_AT_ONCE = 16
# How often the end of a long output is stored anew: a job that never stops printing costs no more than this.
_TAIL_SECONDS = 2.0

AttemptKey = tuple[uuid.UUID, int]


class Stage(Enum):
    """Where an attempt is, in this worker's hands."""

    LAUNCHING = "launching"
    RUNNING = "running"
    # It has exited, and its output is still being read.
    EXITED = "exited"
    ENDED = "ended"


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """One attempt in this worker's hands. Changed by the worker's own thread only.

    ``deadline``, ``launch_until``, ``running_since`` and ``exited_at`` are monotonic seconds. ``mine``: not taken from
    this worker yet, as far as it knows. ``stopped_for``: why it was told to stop: cancelled, timeout, lost.
    """

    id: AttemptKey = field(init=False)
    job: store.ClaimedJob
    executor: Executor
    key: str
    output: CappedOutput
    deadline: float | None
    stage: Stage = Stage.LAUNCHING
    handle: str = ""
    handle_stored: bool = False
    cursor: str = ""
    stopped_for: str | None = None
    mine: bool = True
    exit: ExitStatus | None = None
    outcome: store.Outcome | None = None
    log_changes: list[store.LogChange] = field(default_factory=list)
    tail_timer: Timer = field(default_factory=lambda: Timer(_TAIL_SECONDS))
    launch_until: float = 0.0
    running_since: float = 0.0
    exited_at: float = 0.0

    def __post_init__(self) -> None:
        self.id = (self.job.id, self.job.attempt)

    def is_overdue(self) -> bool:
        return self.deadline is not None and self.stopped_for is None and time.monotonic() >= self.deadline

    def read_output(self, *, to_end: bool = False) -> bool:
        """Fetch a page of what the executor has of the output, or all it has; tell whether nothing will follow."""
        for _ in range(_PAGES_AT_ONCE):
            page = self.executor.logs(self.handle or self.key, self.cursor, _PAGE_BYTES)
            self.cursor = page.cursor
            if page.chunks:
                self.output.feed(page.chunks)
            if page.complete:
                return True
            if not (page.chunks and to_end):
                break
        self.hand_out()
        return False

    def hand_out(self, *, everything: bool = False) -> None:
        """Make of the output what is to be stored.

        While the last change waits for the database there is no other: what comes meanwhile stays under its cap.
        """
        if everything or not self.log_changes:
            entries, gone = self.output.take(tail=everything or self.tail_timer.is_due())
            if entries:
                job, attempt = self.id
                self.log_changes.append(store.LogChange(job_id=job, attempt=attempt, entries=entries, gone=gone))

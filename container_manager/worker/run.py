"""One attempt in a worker's hands, and the stages that it goes through there."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from .. import store
from ..executors.base import Executor, ExitStatus, LogChunk
from ..jobs.progress_lines import Progress, latest_progress
from ..jobs.tracing import record_attempt
from ..statemachine import Graph
from .capped_output import CappedOutput
from .masking import Mask
from .timers import Timer

# One read of an attempt's output takes at most this much.
_PAGE_BYTES = 1024 * 1024
# Bounds how long the worker's thread reads the output of one attempt.
_PAGES_AT_ONCE = 16
# How often the tail of a long output is stored again: bounds what a job that never stops printing costs the database.
_TAIL_SECONDS = 2.0

AttemptKey = tuple[uuid.UUID, int]


class Stage(StrEnum):
    """Where an attempt is in this worker's hands."""

    LAUNCHING = "launching"
    RUNNING = "running"
    # It has exited, and its output is still being read.
    EXITED = "exited"
    # It has an outcome to store, or was abandoned before it was launched.
    ENDED = "ended"


# A run starts as LAUNCHING. One that is adopted starts as RUNNING, unless it must be launched (again).
STAGES = Graph.declare(
    {
        Stage.LAUNCHING: [Stage.RUNNING, Stage.ENDED],
        # From RUNNING at once to ENDED: its engine holds it no longer, or is given up.
        Stage.RUNNING: [Stage.EXITED, Stage.ENDED],
        Stage.EXITED: [Stage.ENDED],
        Stage.ENDED: [],
    }
)


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """One attempt in this worker's hands. Changed by the worker's own thread only.

    ``engine``: the identity of the engine that has it, "" if it ends with this worker. ``claimed_at``, ``deadline``,
    ``launch_until``, ``running_since``, ``unreachable_since`` and ``exited_at`` are monotonic seconds; there is no
    deadline before it runs. ``waiting_for``: what its launch waits for, "" if for nothing; ``has_waited``: whether it
    ever did. ``handle_stored`` and ``wait_stored``: whether the database knows them. ``abandoned``: ownership was lost;
    never unset. ``stopped_for``: why it was told to stop: cancelled, timeout, lost. ``killed``: it gets no grace period
    any more. ``mask``: for the values of its secrets. ``progress``: what it has said last of how far it has come;
    ``progress_stored``: whether the database has that. ``set_aside``: something of it could not be stored once, most
    often because its rows were locked. ``begin_output``: makes `output`.
    """

    id: AttemptKey = field(init=False)
    job: store.ClaimedJob
    executor: Executor
    key: str
    engine: str
    begin_output: Callable[[], CappedOutput]
    mask: Mask | None = None
    timeout_seconds: float | None = None
    deadline: float | None = None
    stage: Stage = Stage.LAUNCHING
    handle: str = ""
    handle_stored: bool = False
    waiting_for: str = ""
    has_waited: bool = False
    wait_stored: bool = True
    cursor: str = ""
    stopped_for: str | None = None
    killed: bool = False
    abandoned: bool = False
    exit: ExitStatus | None = None
    outcome: store.Outcome | None = None
    log_changes: list[store.LogChange] = field(default_factory=list)
    progress: Progress | None = None
    progress_stored: bool = True
    set_aside: bool = False
    claimed_at: float = 0.0
    launch_until: float = 0.0
    running_since: float = 0.0
    unreachable_since: float | None = None
    exited_at: float = 0.0
    _output: CappedOutput | None = field(init=False, default=None)
    _tail_timer: Timer = field(init=False)

    def __post_init__(self) -> None:
        self.id = (self.job.id, self.job.attempt)

    def enter(self, stage: Stage) -> None:
        """Go on to another stage, along an edge of `STAGES`."""
        if not STAGES.has_edge(self.stage, stage):
            # An error of this program. Tests turn the warning into an exception. A worker in production goes on: an
            # exception would end its loop, and with it every other attempt that it runs.
            warnings.warn(f"Attempt {self.key} goes from {self.stage} to {stage}.", RuntimeWarning, stacklevel=2)
        self.stage = stage

    @property
    def output(self) -> CappedOutput:
        """What it prints, and lines of this worker's own. Made when there is something: many jobs print nothing."""
        if self._output is None:
            self._output, self._tail_timer = self.begin_output(), Timer(_TAIL_SECONDS)
        return self._output

    @property
    def grace_seconds(self) -> float:
        """How long it gets between TERM and KILL."""
        return 0.0 if self.killed else self.job.spec.grace_seconds

    def is_overdue(self) -> bool:
        return self.deadline is not None and self.stopped_for is None and time.monotonic() >= self.deadline

    def begin_deadline(self, *, elapsed_seconds: float = 0.0) -> None:
        """Count the job's timeout from now on; what the attempt waited for before it ran does not count."""
        if self.timeout_seconds is not None:
            self.deadline = time.monotonic() + self.timeout_seconds - elapsed_seconds

    def wait_for(self, what: str) -> None:
        """Note what the launch waits for; "": for nothing any more."""
        if what != self.waiting_for:
            self.waiting_for, self.has_waited, self.wait_stored = what, True, False

    def launch(self) -> store.Launch:
        """Return what the database is to know of the launch."""
        job, attempt = self.id
        if self.stage is Stage.LAUNCHING:
            return store.Launch(job, attempt, waiting_for=self.waiting_for)
        waited = self.running_since - self.claimed_at if self.has_waited else 0.0
        return store.Launch(job, attempt, handle=self.handle, waited_seconds=waited)

    def masked(self, text: str) -> str:
        """Return a message that may quote the job's secrets, without their values."""
        return text if self.mask is None else self.mask.text(text)

    def read_output(self, *, to_end: bool = False) -> bool:
        """Read a page of the output that the executor has, or all of it; return whether nothing will follow."""
        for _ in range(_PAGES_AT_ONCE):
            page = self.executor.logs(self.handle or self.key, self.cursor, _PAGE_BYTES)
            self.cursor = page.cursor
            if page.chunks:
                self.output.feed(page.chunks if self.mask is None else self.mask.feed(page.chunks))
            if page.complete:
                return True
            if not (page.chunks and to_end):
                break
        self.prepare_log_change()
        return False

    def note_progress(self, data: bytes | None) -> None:
        """Take what its progress file has, if that says something new."""
        if isinstance(data, bytes) and data:
            found = latest_progress(data, masked=None if self.mask is None else self.masked)
            if found is not None and found != self.progress:
                self.progress, self.progress_stored = found, False

    def progress_changes(self) -> list[store.ProgressChange]:
        """Return what the database is to know of its progress: a change, or none."""
        if self.progress is None or self.progress_stored:
            return []
        return [store.ProgressChange(*self.id, self.progress)]

    def note(self, text: str) -> None:
        """Add a line of this worker's own to the output."""
        self.output.feed([LogChunk(stream="system", data=f"{text}\n".encode())])

    def prepare_log_change(self, *, everything: bool = False) -> None:
        """Prepare output that was read for the database.

        At most one change waits for the database, unless ``everything`` is asked for: more output stays under its cap.
        """
        if self._output is None:
            return
        if everything and self.mask is not None:
            self._output.feed(self.mask.flush())
        if everything or not self.log_changes:
            entries, gone = self._output.take(tail=everything or self._tail_timer.take_due(), last=everything)
            if entries:
                job, attempt = self.id
                self.log_changes.append(store.LogChange(job_id=job, attempt=attempt, entries=entries, gone=gone))


def trace_attempt(run: Run) -> None:
    """Record the span of an attempt whose end is stored."""
    outcome, job = run.outcome, run.job
    reason = (outcome and outcome.reason) or ""
    record_attempt(
        job.spec.environment if isinstance(job.spec.environment, dict) else {},
        {
            "job": str(job.id),
            "attempt": job.attempt,
            "queue": job.spec.queue,
            "executor": job.spec.executor,
            "status": (outcome and outcome.status) or "cancelled",
            "reason": reason,
        },
        seconds=time.monotonic() - run.claimed_at,
        error=reason,
    )

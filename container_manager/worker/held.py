"""What a worker knows of an attempt that it holds."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from enum import Enum

from ..executors.base import Executor, ExitStatus
from ..queue import ClaimedJob, LogEntry, Outcome
from .output import CappedOutput

# One read of an attempt's output takes at most this much.
_PAGE_BYTES = 1024 * 1024

AttemptKey = tuple[uuid.UUID, int]


class Stage(Enum):
    """Where an attempt is, in this worker's hands."""

    LAUNCHING = "launching"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True, kw_only=True, eq=False)
class HeldAttempt:
    """One attempt in this worker's hands. Changed by the worker's own thread only."""

    id: AttemptKey = field(init=False)
    job: ClaimedJob
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
    outcome: Outcome | None = None
    entries: list[LogEntry] = field(default_factory=list)
    launch_until: float = 0.0

    def __post_init__(self) -> None:
        self.id = (self.job.id, self.job.attempt)

    def is_overdue(self) -> bool:
        return self.deadline is not None and self.stopped_for is None and time.monotonic() >= self.deadline

    def read_output(self, *, to_end: bool = False) -> None:
        """Fetch what the executor has of the output."""
        while True:
            page = self.executor.logs(self.handle, self.cursor, _PAGE_BYTES)
            self.cursor = page.cursor
            if page.chunks:
                self.output.feed(page.chunks)
            if not (page.chunks and to_end):
                break
        pieces = self.output.take()
        if to_end:
            pieces += self.output.close()
        self.entries.extend(
            LogEntry(
                job_id=self.job.id,
                attempt=self.job.attempt,
                sequence=sequence,
                stream=chunk.stream,
                data=chunk.data,
            )
            for sequence, chunk in pieces
        )

"""The values that workers read from the tables and write to them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from ..jobs.progress_lines import Progress
from ..jobs.spec import CLAIMED_FIELDS, JSON_FIELDS, JobSpec

# The columns that a claim reads of a job, in the order of `ClaimedJob`.
JOB_COLUMNS = ("id", "attempt", "retry_count", *CLAIMED_FIELDS)


class ClaimedJob(NamedTuple):
    """A job that a worker has claimed. ``attempt`` is the fencing token.

    A tuple, like `Outcome`: one is made for every job, and a frozen dataclass takes several times as long.
    ``elapsed_seconds``: the age of the attempt, by the database's clock, without the time that its launch waited.
    """

    id: uuid.UUID
    attempt: int
    retry_count: int
    spec: JobSpec
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedAttempt:
    """An open attempt of this worker, as the database has it now.

    ``status``: that of the job, or "" if the job has a later attempt. ``engine``: the identity of the engine that has
    it, "" for one that ends with its worker. ``claimed_by``: who changed the job's status last; for a running job the
    worker that claimed it. ``kill_requested``: whether somebody asked not to wait for its grace period.
    """

    job: ClaimedJob
    status: str
    engine: str = ""
    handle: str
    claimed_by: str
    kill_requested: bool = False


class Launch(NamedTuple):
    """How far a launch has come: it waits for something, or has a handle."""

    job_id: uuid.UUID
    attempt: int
    handle: str = ""
    waiting_for: str = ""
    waited_seconds: float = 0.0

    @property
    def key(self) -> tuple[uuid.UUID, int]:
        return self.job_id, self.attempt


class ProgressChange(NamedTuple):
    """How far an attempt has come."""

    job_id: uuid.UUID
    attempt: int
    progress: Progress

    @property
    def key(self) -> tuple[uuid.UUID, int]:
        return self.job_id, self.attempt


class Outcome(NamedTuple):
    """How an attempt ended.

    ``status``: completed or failed; None to close the attempt only (its job was cancelled). ``retry_after_seconds``: a
    failed job goes on to retrying, due then. ``counts_as_retry``: whether that is one of its retries. ``result``: JSON
    that every database stores (`container_manager.jobs.json_value`).
    """

    job_id: uuid.UUID
    attempt: int
    status: str | None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    retry_after_seconds: float | None = None
    counts_as_retry: bool = True
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A piece of output; ``sequence`` is its position within the attempt."""

    sequence: int
    stream: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChange:
    """Output of one attempt to store. ``gone``: a range of sequence numbers to delete before, its end not included."""

    job_id: uuid.UUID
    attempt: int
    entries: Sequence[LogEntry]
    gone: tuple[int, int] | None = None


_JSON_COLUMNS = tuple(CLAIMED_FIELDS.index(name) for name in JSON_FIELDS if name in CLAIMED_FIELDS)
# What a claim does not read keeps its default.
_UNREAD = {name: value for name, value in JobSpec._field_defaults.items() if name not in CLAIMED_FIELDS}
_UNREAD_VALUES = tuple(_UNREAD.values())
# As a tuple takes them, which is faster than by name.
_in_order = itemgetter(*((*CLAIMED_FIELDS, *_UNREAD).index(name) for name in JobSpec._fields))


def job_id(value: Any) -> uuid.UUID:
    """Return a job's id, as whatever type the driver has it."""
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def claimed_job(row: Sequence[Any], *, attempt: int | None = None) -> ClaimedJob:
    """Return the job of a row: `JOB_COLUMNS`, then the seconds since its launch; ``attempt`` replaces the row's."""
    key, number, retry_count, *values, elapsed = row
    for column in _JSON_COLUMNS:
        text = values[column]
        values[column] = {} if text == "{}" else None if text is None else _json(text)
    return ClaimedJob(
        job_id(key),
        attempt or number,
        retry_count,
        JobSpec._make(_in_order((*values, *_UNREAD_VALUES))),
        float(elapsed),
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Databases accept longer numbers and deeper nesting than Python. Text makes its own job fail, not the worker.
        return text

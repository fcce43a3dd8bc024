"""The values that pass between a worker and the tables."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..jobs.spec import JSON_FIELDS, JobSpec

# What a claim reads of a job. Its order is that of `ClaimedJob`.
JOB_COLUMNS = ("id", "attempt", "retry_count", *JobSpec._fields)


class ClaimedJob(NamedTuple):
    """What a worker needs to know of a job it holds. ``id`` and ``attempt`` are its fencing token.

    A tuple, as `Outcome` is: there is one for every job, and to make a frozen dataclass takes several times as long.
    ``elapsed_seconds``: how long the attempt has been going on, by the database's clock.
    """

    id: uuid.UUID
    attempt: int
    retry_count: int
    spec: JobSpec
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedAttempt:
    """An open attempt of this worker: as the database has it now.

    ``status``: the job's, or "" where the job has left this attempt behind. ``claimed_by``: the worker that moved the
    job last; of a running one, the worker that claimed it.
    """

    job: ClaimedJob
    status: str
    handle: str
    claimed_by: str


class Outcome(NamedTuple):
    """How an attempt ended.

    ``status``: completed or failed, or None where only the attempt is to be closed (its job was cancelled).
    ``retry_after_seconds``: with failed, go on to retrying, due then.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A piece of output at its place within the attempt."""

    sequence: int
    stream: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChange:
    """Output to store of one attempt. ``gone``: the first stored entry to delete before, and the first to keep."""

    job_id: uuid.UUID
    attempt: int
    entries: Sequence[LogEntry]
    gone: tuple[int, int] | None = None


_JSON_COLUMNS = tuple(JobSpec._fields.index(name) for name in JSON_FIELDS)


def claimed_job(row: Sequence[Any], *, attempt: int | None = None) -> ClaimedJob:
    """Make a job of `JOB_COLUMNS` and the seconds since its launch; ``attempt`` replaces the row's."""
    key, number, retry_count, *values, elapsed = row
    for column in _JSON_COLUMNS:
        values[column] = {} if values[column] == "{}" else _json(values[column])
    return ClaimedJob(
        key if isinstance(key, uuid.UUID) else uuid.UUID(key),
        attempt or number,
        retry_count,
        JobSpec._make(values),
        float(elapsed),
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Databases take longer numbers, and more levels. As a text it fails its own job, and no worker.
        return text

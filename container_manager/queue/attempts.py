"""Claim jobs, keep hold of their attempts, finish them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models import Model
from django.utils import timezone

from ..models import ContainerJob, JobAttempt
from ..statemachine import Transition
from ..statemachine.deadlocks import retries_deadlocks
from ..statemachine.signals import send_transitions, transitions_logged
from .dialects import JOB_COLUMNS, Dialect, dialect_for
from .leases import bury_workers
from .wakeup import others_listen

_RESCUE_BATCH = 1000


class ClaimedJob(NamedTuple):
    """What a worker needs to know of a job it holds. ``id`` and ``attempt`` are its fencing token.

    `JOB_COLUMNS`, and one more. A tuple, as `Outcome` is: there is one for every job, and to make a frozen dataclass
    takes several times as long.
    ``elapsed_seconds``: how long the attempt has been going on, by the database's clock.
    """

    id: uuid.UUID
    attempt: int
    executor: str
    image: str
    command: str
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    working_directory: str
    container: Mapping[str, Any]
    memory_bytes: int | None
    cpu_count: float | None
    timeout_seconds: int | None
    grace_seconds: int
    retry_count: int
    max_retries: int
    labels: Mapping[str, str]
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


@retries_deadlocks
def claim(
    *,
    worker: str,
    executors: Sequence[str],
    queues: Sequence[str] | None = None,
    only: uuid.UUID | None = None,
    limit: int,
    using: str,
) -> list[ClaimedJob]:
    """Move up to ``limit`` due jobs from queued to running for this worker, highest priority first.

    Of all queues, or of those named; ``only`` names a single job.
    """
    if not executors or not (queues is None or queues):
        return []
    connection = connections[using]
    dialect = dialect_for(connection)
    candidates = dialect.candidates(connection, executors, queues, only, limit)
    rows = dialect.claim(connection, worker, candidates)
    jobs = [_claimed(row) for row in rows]
    _announce(lambda: [(job.id, "queued", "running", "") for job in jobs], worker, using)
    return jobs


def is_due(
    *, executors: Sequence[str], queues: Sequence[str] | None = None, only: uuid.UUID | None = None, using: str
) -> bool:
    """Tell whether `claim` would find a job, or somebody is just about to take it."""
    if not executors or not (queues is None or queues):
        return False
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(*dialect_for(connection).candidates(connection, executors, queues, only, 1))
        return cursor.fetchone() is not None


@retries_deadlocks
def finish(outcomes: Sequence[Outcome], *, worker: str, using: str) -> set[tuple[uuid.UUID, int]]:
    """Store how attempts of this worker ended; return (job id, attempt) of those now closed.

    An attempt that is missing there is no longer this worker's, or its job was cancelled this very moment: ask
    `owned_attempts` which.
    """
    connection = connections[using]
    # Rows are locked in the order of their keys everywhere, so that nobody waits in a circle.
    outcomes = sorted(outcomes, key=lambda o: o.job_id.int)
    retried = [o for o in outcomes if o.retry_after_seconds is not None]
    dialect = dialect_for(connection)
    one_statement = dialect.finishes_in_one_statement and not retried
    with nullcontext() if one_statement else transaction.atomic(using=using, savepoint=False):
        done, closed = dialect.finish(connection, worker, outcomes)

        def moves() -> list[_Move]:
            ended = [(o.job_id, "running", o.status or "", o.reason) for o in outcomes if o.job_id in done]
            return ended + [(o.job_id, "failed", "retrying", o.reason) for o in retried if o.job_id in done]

        _announce(moves, worker, using)
    return closed


def owned_attempts(*, worker: str, using: str) -> list[OwnedAttempt]:
    """Return every open attempt of this worker: the truth about what it holds."""
    dialect = dialect_for(connections[using])
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join('j.' + name for name in JOB_COLUMNS)}, {dialect.seconds_since('a.launched_at')}, "
            "a.number, CASE WHEN j.attempt = a.number THEN j.status ELSE '' END, a.handle, j.status_changed_by "
            "FROM container_manager_jobattempt a "
            "JOIN container_manager_containerjob j ON j.id = a.job_id WHERE a.worker = %s AND a.finished_at IS NULL",
            [worker],
        )
        rows = cursor.fetchall()
    return [
        OwnedAttempt(
            job=_claimed(row[: len(JOB_COLUMNS) + 1], attempt=row[-4]),
            status=row[-3],
            handle=row[-2],
            claimed_by=row[-1],
        )
        for row in rows
    ]


@retries_deadlocks
def record_handles(handles: Collection[tuple[tuple[uuid.UUID, int], str]], *, worker: str, using: str) -> None:
    """Note what the engine calls attempts, by job id and attempt; those that are not this worker's stay as they are."""
    connection, key = connections[using], ContainerJob._meta.pk
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE container_manager_jobattempt SET handle = %s "
            "WHERE job_id = %s AND number = %s AND worker = %s AND finished_at IS NULL",
            [(handle, key.get_db_prep_value(job, connection), number, worker) for (job, number), handle in handles],
        )


@retries_deadlocks
def rescue(*, worker: str, executors: Sequence[str], using: str) -> int:
    """Take over the attempts of workers that have no lease any more; return how many.

    Only those whose engine this worker can reach, or that no live worker can. The rows of the dead are removed: one
    that was only frozen must register anew, under another id. What somebody else is at just now is left for next time.
    """
    connection = connections[using]
    dialect = dialect_for(connection)
    with connection.cursor() as cursor:
        # From here on "dead" means "has no row", which neither the clock nor a late renewal can undo.
        bury_workers(cursor, dialect, by=worker)
        served = dialect.unserved_executors(cursor, executors)
        if not served:
            return 0
        cursor.execute(
            "SELECT a.id, a.job_id, a.number, a.worker FROM container_manager_jobattempt a "
            f"WHERE a.finished_at IS NULL AND a.worker <> %s AND a.executor IN ({', '.join(['%s'] * len(served))}) "
            "AND NOT EXISTS (SELECT 1 FROM container_manager_worker w WHERE w.id = a.worker) LIMIT %s",
            [worker, *served, _RESCUE_BATCH],
        )
        orphaned = cursor.fetchall()
        return _take_over(cursor, dialect, worker, orphaned, using) if orphaned else 0


def _take_over(cursor: Any, dialect: Dialect, worker: str, orphaned: Sequence[Sequence[Any]], using: str) -> int:
    taken = 0
    with transaction.atomic(using=using):
        # A frozen worker may have gone to sleep in the middle of a finish, and holds rows locked.
        free = _locked(cursor, dialect, ContainerJob, {job for _, job, _, _ in orphaned})
        orphaned = [row for row in orphaned if row[1] in free]
        free = _locked(cursor, dialect, JobAttempt, {attempt for attempt, *_ in orphaned})
        # Each from the worker that was found to hold it: another may rescue at the same time.
        for attempt, job, number, holder in (row for row in orphaned if row[0] in free):
            cursor.execute(
                "UPDATE container_manager_containerjob SET worker = %s "
                f"WHERE id = %s AND {dialect.by_key.format('status')} = 'running' AND worker = %s AND attempt = %s",
                [worker, job, holder, number],
            )
            cursor.execute(
                "UPDATE container_manager_jobattempt SET worker = %s "
                f"WHERE id = %s AND {dialect.by_key.format('worker')} = %s AND finished_at IS NULL",
                [worker, attempt, holder],
            )
            taken += cursor.rowcount
    return taken


def _locked(cursor: Any, dialect: Dialect, model: type[Model], keys: Collection[Any]) -> set[Any]:
    """Lock rows in the order of their keys; return those that nobody else has locked."""
    if not keys:
        return set()
    marks = ", ".join(["%s"] * len(keys))
    cursor.execute(f"SELECT id FROM {model._meta.db_table} WHERE id IN ({marks}) ORDER BY id{dialect.lock}", [*keys])
    return {row[0] for row in cursor.fetchall()}


_JSON_COLUMNS = tuple(ClaimedJob._fields.index(name) for name in ("environment", "secrets", "labels", "container"))


def _claimed(row: Sequence[Any], *, attempt: int | None = None) -> ClaimedJob:
    key, number, *rest, elapsed = row
    values = [key if isinstance(key, uuid.UUID) else uuid.UUID(key), attempt or number, *rest, float(elapsed)]
    for column in _JSON_COLUMNS:
        values[column] = {} if values[column] == "{}" else _json(values[column])
    return ClaimedJob._make(values)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Databases take longer numbers, and more levels. As a text it fails its own job, and no worker.
        return text


# A job, its status before and after, and why.
_Move = tuple[uuid.UUID, str, str, str]


def _announce(moves: Callable[[], Sequence[_Move]], worker: str, using: str) -> None:
    # These moves wake no worker: most often nobody wants to hear of them.
    if not (others_listen() or transitions_logged()):
        return
    now = timezone.now()

    def transitions() -> tuple[Transition, ...]:
        return tuple(
            Transition(pk=pk, source=source, target=target, at=now, actor=worker, reason=reason)
            for pk, source, target, reason in moves()
        )

    send_transitions(ContainerJob, transitions, using=using)

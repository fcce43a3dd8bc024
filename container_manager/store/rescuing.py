"""Take over the attempts of expired workers."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models import Model

from ..models import ContainerJob, JobAttempt
from ..statemachine.deadlocks import retries_deadlocks
from .isolation import OnRefused, isolated
from .sql import store_sql
from .sql.statements import StoreSQL
from .values import job_id

_RESCUE_BATCH = 1000
_COLUMNS = "a.id, a.job_id, a.number, a.worker, a.executor, a.engine"
# Open attempts whose worker has no row: it has ended, or its lease has expired (`delete_expired_worker`).
_UNOWNED = (
    "FROM container_manager_jobattempt a WHERE a.finished_at IS NULL AND a.worker <> %s "
    "AND NOT EXISTS (SELECT 1 FROM container_manager_worker w WHERE w.id = a.worker)"
)


class UnownedAttempt(NamedTuple):
    """An open attempt whose worker is dead; ``engine``: the identity of the one that has it, "" if it ended too."""

    id: int
    job_id: Any
    number: int
    worker: str
    executor: str
    engine: str

    @property
    def key(self) -> tuple[uuid.UUID, int]:
        """Job id and number, as a claim returns them."""
        return job_id(self.job_id), self.number


@retries_deadlocks
def rescue(
    *,
    worker: str,
    engines: Mapping[str, str],
    besides: Collection[int] = (),
    refused: OnRefused[UnownedAttempt] | None = None,
    using: str,
) -> int:
    """Take over attempts whose worker has no row any more; return how many.

    ``engines``: by executor, the identity of the engine that this worker reaches at this moment. It takes what these
    have, and what has ended with its worker; the rest is left to workers that reach it. Rows locked by other
    transactions are skipped (SKIP LOCKED). ``refused`` is told of an attempt that the database refuses to hand over;
    without it the error is raised. ``besides``: none of these, by their rows' ids.
    """
    connection = connections[using]
    reached = "".join([" OR (a.executor = %s AND a.engine = %s)"] * len(engines))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} {_UNOWNED} AND (a.engine = ''{reached}) LIMIT %s",
            [worker, *(text for pair in engines.items() for text in pair), _RESCUE_BATCH],
        )
        found = [UnownedAttempt(*row) for row in cursor.fetchall() if row[0] not in besides]
        work = partial(_take_over, cursor, store_sql(connection), worker, using)
        return len(isolated(work, found, refused=refused, using=using))


def unowned_attempts(*, worker: str, engines: Mapping[str, str], using: str) -> list[UnownedAttempt]:
    """Return what `rescue` leaves: attempts of engines that this worker does not reach."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} {_UNOWNED} AND a.engine <> ''", [worker])
        found = [UnownedAttempt(*row) for row in cursor.fetchall()]
    return [attempt for attempt in found if engines.get(attempt.executor) != attempt.engine]


@retries_deadlocks
def take_over(attempts: Sequence[UnownedAttempt], *, worker: str, using: str) -> int:
    """Take over attempts, to close them; return how many. Those that another worker has rescued are left alone."""
    connection = connections[using]
    with connection.cursor() as cursor:
        return len(_take_over(cursor, store_sql(connection), worker, using, attempts))


def _take_over(
    cursor: Any, dialect: StoreSQL, worker: str, using: str, unowned: Sequence[UnownedAttempt]
) -> Sequence[int]:
    taken = 0
    if not unowned:
        return []
    with transaction.atomic(using=using):
        # A worker that froze while it finished attempts still holds locks on their rows.
        free = _locked(cursor, dialect, ContainerJob, {attempt.job_id for attempt in unowned})
        unowned = [attempt for attempt in unowned if attempt.job_id in free]
        free = _locked(cursor, dialect, JobAttempt, {attempt.id for attempt in unowned})
        # On condition that the expired worker still has it: another worker may rescue at the same time.
        for attempt, job, number, holder, *_ in (found for found in unowned if found.id in free):
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
    return range(taken)


def _locked(cursor: Any, dialect: StoreSQL, model: type[Model], keys: Collection[Any]) -> set[Any]:
    """Lock rows in the order of their keys; return those that were locked (SKIP LOCKED)."""
    if not keys:
        return set()
    marks = ", ".join(["%s"] * len(keys))
    cursor.execute(f"SELECT id FROM {model._meta.db_table} WHERE id IN ({marks}) ORDER BY id{dialect.lock}", [*keys])
    return {row[0] for row in cursor.fetchall()}

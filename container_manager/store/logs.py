"""Store attempts' output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import connections, transaction
from django.db.models import BinaryField

from ..models import ContainerJob
from ..statemachine.deadlocks import retries_deadlocks
from .attempts import lock_attempts
from .isolation import OnRefused, isolated, skipping_locked
from .sql import store_sql
from .sql.statements import Keys
from .values import LogChange

# An attempt that is open and this worker's.
_MINE = "container_manager_jobattempt WHERE job_id = %s AND number = %s AND worker = %s AND finished_at IS NULL"


def store_logs(
    changes: Sequence[LogChange],
    *,
    worker: str,
    refused: OnRefused[LogChange] | None = None,
    skip_locked: bool = False,
    using: str,
) -> Keys:
    """Store output of open attempts of this worker; output of other attempts is dropped.

    Idempotent: a batch whose commit is uncertain can be sent again. Return (job id, attempt) of those that another
    transaction has locked, of whose output nothing is stored; ``skip_locked``: do not wait for such at first.
    ``refused`` is told what the database refuses; without it the error is raised.
    """
    work = partial(_store_logs, worker=worker, skip_locked=skip_locked, using=using)
    return set(isolated(work, changes, refused=refused, using=using))


@retries_deadlocks
def _store_logs(changes: Sequence[LogChange], *, worker: str, skip_locked: bool, using: str) -> Keys:
    def store(skip_locked: bool) -> Keys:
        if not skip_locked and _write(changes, worker, using):
            return set()
        # Of some nothing was stored: they are locked, closed, not this worker's, or stored already.
        keys = {(change.job_id, change.attempt) for change in changes}
        with transaction.atomic(using=using):
            free, locked = lock_attempts(keys, worker=worker, using=using)
            _write([change for change in changes if (change.job_id, change.attempt) in free], worker, using)
        return locked

    return skipping_locked(store, skip=skip_locked, using=using) if changes else set()


def _write(changes: Sequence[LogChange], worker: str, using: str) -> bool:
    """Store output; return False if some may have been skipped, since another transaction has locked its attempt."""
    written = [_write_turn(turn, worker, using) for turn in _turns(changes)]
    return all(written)


def _turns(changes: Sequence[LogChange]) -> list[list[LogChange]]:
    """Put changes of one attempt into different turns: what one deletes an earlier one may have stored."""
    turns: list[list[LogChange]] = []
    seen: Counter[tuple[UUID, int]] = Counter()
    for change in changes:
        key = (change.job_id, change.attempt)
        if seen[key] == len(turns):
            turns.append([])
        turns[seen[key]].append(change)
        seen[key] += 1
    return turns


def _write_turn(changes: Sequence[LogChange], worker: str, using: str) -> bool:
    connection = connections[using]
    dialect, binary, key = store_sql(connection), BinaryField(), ContainerJob._meta.pk
    mine_locked = f"{_MINE}{dialect.lock_referred}"
    deletions, insertions = [], []
    for change in changes:
        mine = (key.get_db_prep_value(change.job_id, connection), change.attempt, worker)
        if change.gone is not None:
            deletions.append((*mine, *change.gone))
        insertions += [
            (entry.sequence, entry.stream, binary.get_db_prep_value(entry.data, connection), *mine)
            for entry in change.entries
        ]
    with connection.cursor() as cursor:
        if deletions:
            cursor.executemany(
                f"DELETE FROM container_manager_joblog WHERE attempt_id = (SELECT id FROM {mine_locked}) "
                "AND sequence >= %s AND sequence < %s",
                deletions,
            )
        cursor.executemany(
            dialect.insert_ignoring_duplicates(
                "container_manager_joblog (attempt_id, sequence, stream, data) "
                f"SELECT id, %s, %s, %s FROM {mine_locked}"
            ),
            insertions,
        )
        return not dialect.lock_referred or cursor.rowcount == len(insertions)

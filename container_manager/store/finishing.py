"""Store how attempts ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from django.db import connections, transaction

from ..statemachine.deadlocks import retries_deadlocks
from .isolation import OnRefused, isolated, skipping_locked
from .moves import Move, announce
from .sql import store_sql
from .sql.statements import Keys
from .values import Outcome


def finish(
    outcomes: Sequence[Outcome],
    *,
    worker: str,
    refused: OnRefused[Outcome] | None = None,
    skip_locked: bool = False,
    using: str,
) -> Keys:
    """Store how attempts of this worker ended; return (job id, attempt) of those that are now closed.

    An attempt that is not returned is no longer this worker's, or its job was cancelled concurrently: `owned_attempts`
    tells which. Or its row or its job's is locked by another transaction, or the database refuses the outcome: then it
    is as it was. ``skip_locked``: do not wait for locked rows at first. ``refused`` is told what is refused; without it
    the error is raised, and nothing is stored.
    """
    # All code locks rows in the order of their keys, so that there are no deadlocks. Of one job's attempts the current
    # one comes last: PostgreSQL does not lock a row that the same statement has changed.
    outcomes = sorted(outcomes, key=lambda o: (o.job_id.int, o.attempt))
    work = partial(_finish, worker=worker, skip_locked=skip_locked, using=using)
    return set(isolated(work, outcomes, refused=refused, using=using))


@retries_deadlocks
def _finish(outcomes: Sequence[Outcome], *, worker: str, skip_locked: bool, using: str) -> Keys:
    connection = connections[using]
    retried = [o for o in outcomes if o.retry_after_seconds is not None]
    dialect = store_sql(connection)
    one_statement = dialect.finishes_in_one_statement and not retried

    def store(skip_locked: bool) -> Keys:
        with nullcontext() if one_statement else transaction.atomic(using=using, savepoint=False):
            done, closed = dialect.finish(connection, worker, outcomes, skip_locked=skip_locked)

            def moves() -> list[Move]:
                ended = [(o.job_id, "running", o.status or "", o.reason) for o in outcomes if o.job_id in done]
                return ended + [(o.job_id, "failed", "retrying", o.reason) for o in retried if o.job_id in done]

            announce(moves, worker, using)
        return closed

    return skipping_locked(store, skip=skip_locked, using=using) if outcomes else set()

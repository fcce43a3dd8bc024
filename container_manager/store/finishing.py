"""Store how attempts ended."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import nullcontext

from django.db import connections, transaction

from ..statemachine.deadlocks import retries_deadlocks
from .moves import Move, announce
from .sql import store_sql
from .values import Outcome


@retries_deadlocks
def finish(outcomes: Sequence[Outcome], *, worker: str, using: str) -> set[tuple[uuid.UUID, int]]:
    """Store how attempts of this worker ended; return (job id, attempt) of those that are now closed.

    An attempt that is not returned is no longer this worker's, or its job was cancelled concurrently: `owned_attempts`
    tells which.
    """
    connection = connections[using]
    # All code locks rows in the order of their keys, so that there are no deadlocks.
    outcomes = sorted(outcomes, key=lambda o: o.job_id.int)
    retried = [o for o in outcomes if o.retry_after_seconds is not None]
    dialect = store_sql(connection)
    one_statement = dialect.finishes_in_one_statement and not retried
    with nullcontext() if one_statement else transaction.atomic(using=using, savepoint=False):
        done, closed = dialect.finish(connection, worker, outcomes)

        def moves() -> list[Move]:
            ended = [(o.job_id, "running", o.status or "", o.reason) for o in outcomes if o.job_id in done]
            return ended + [(o.job_id, "failed", "retrying", o.reason) for o in retried if o.job_id in done]

        announce(moves, worker, using)
    return closed

"""Store how far attempts have come, as they say themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from django.db import transaction

from ..models import JobAttempt
from ..statemachine.deadlocks import retries_deadlocks
from .attempts import lock_attempts
from .isolation import OnRefused, isolated
from .sql.statements import Keys
from .values import ProgressChange


def store_progress(
    changes: Sequence[ProgressChange],
    *,
    worker: str,
    refused: OnRefused[ProgressChange] | None = None,
    using: str,
) -> Keys:
    """Store progress of open attempts of this worker, in two statements; that of other attempts is dropped.

    The job's row is left alone. Return (job id, attempt) of those that another transaction has locked, of which nothing
    is stored. ``refused`` is told what the database refuses; without it the error is raised.
    """
    work = partial(_store_progress, worker=worker, using=using)
    return set(isolated(work, changes, refused=refused, using=using)) if changes else set()


@retries_deadlocks
def _store_progress(changes: Sequence[ProgressChange], *, worker: str, using: str) -> Keys:
    with transaction.atomic(using=using):
        free, locked = lock_attempts({change.key for change in changes}, worker=worker, using=using)
        rows = [JobAttempt(pk=free[e.key], progress=asdict(e.progress)) for e in changes if e.key in free]
        if rows:
            JobAttempt.objects.using(using).bulk_update(rows, ["progress"])
    return locked

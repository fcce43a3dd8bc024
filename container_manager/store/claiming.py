"""Claim jobs that are due."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from django.db import connections, transaction

from ..models import ContainerJob, JobStatus
from ..statemachine.deadlocks import retries_deadlocks
from .isolation import OnRefused, is_refusal, isolated
from .moves import announce
from .sql import store_sql
from .sql.lanes import Lane, Wanted
from .values import ClaimedJob, claimed_job, job_id

# How `last_error` of a queued job begins whose claim the database refuses; what follows is the database's word.
REFUSED_CLAIM = "The database refuses the claim: "
# Others may have locked the first jobs, so a claim looks further than it takes: past twice as many, and these. If they
# have locked all of them, it looks that many times further.
_OTHERS = 4
_FURTHER = 8


def claim(
    *,
    worker: str,
    executors: Sequence[str],
    engines: Mapping[str, str] | None = None,
    queues: Sequence[str] | None = None,
    only: uuid.UUID | None = None,
    besides: Collection[uuid.UUID] = (),
    refused: OnRefused[uuid.UUID] | None = None,
    lanes: Sequence[Lane] | None = None,
    limit: int,
    using: str,
) -> list[ClaimedJob]:
    """Move up to ``limit`` due jobs from queued to running for this worker, highest priority first.

    ``engines``: by executor, the identity of the engine that will have the attempts, if they survive their worker.
    ``queues``: None for all. ``only``: just this job. ``besides``: none of these. ``lanes``: where to look for them; by
    default in all `due_lanes`. Rows locked by other transactions are skipped (SKIP LOCKED). ``refused`` is told of a
    job whose claim the database refuses: it stays queued, and the others are claimed; without ``refused`` the error is
    raised, and nothing is claimed.
    """
    if not executors or not (queues is None or queues):
        return []
    connection = connections[using]
    if lanes is None:
        lanes = () if only is not None else due_lanes(executors=executors, queues=queues, using=using)
    if not lanes and only is None:
        return []
    wanted = Wanted(executors, queues, only, frozenset(besides))
    take = partial(_claim, lanes=lanes, worker=worker, engines=engines or {}, using=using)

    def each(keys: Sequence[uuid.UUID]) -> list[ClaimedJob]:
        return [job for key in keys for job in take(wanted._replace(only=key), limit=1)]

    try:
        return take(wanted, limit=limit)
    except Exception as error:
        if refused is None or not is_refusal(error, using=using):
            raise
    with connection.cursor() as cursor:
        first = [only] if only is not None else store_sql(connection).first_jobs(cursor, lanes, limit + len(besides))
    found = [key for key in map(job_id, first) if key not in wanted.besides]
    return [job for key in found[:limit] for job in isolated(each, [key], refused=refused, using=using)]


@retries_deadlocks
def _claim(
    wanted: Wanted, *, lanes: Sequence[Lane], worker: str, engines: Mapping[str, str], limit: int, using: str
) -> list[ClaimedJob]:
    connection = connections[using]
    dialect = store_sql(connection)
    jobs: list[ClaimedJob] = []
    reach = 2 * limit + _OTHERS + len(wanted.besides)
    while True:
        rows, seen = dialect.claim(
            connection, worker, wanted, lanes, limit=limit - len(jobs), reach=reach, engines=engines
        )
        jobs += [claimed_job(row) for row in rows]
        if len(jobs) == limit or seen < reach:
            break
        reach *= _FURTHER
    announce(lambda: [(job.id, "queued", "running", "") for job in jobs], worker, using)
    return jobs


def due_lanes(*, executors: Sequence[str], queues: Sequence[str] | None = None, using: str) -> list[Lane]:
    """Return where the due jobs of these executors and queues stand (None: of all), but those of paused queues.

    It costs a look per lane, and none per job. Some of the lanes may be empty.
    """
    if not executors or not (queues is None or queues):
        return []
    with connections[using].cursor() as cursor:
        return store_sql(connections[using]).due_lanes(cursor, Wanted(executors, queues))


def is_due(
    *, executors: Sequence[str], queues: Sequence[str] | None = None, only: uuid.UUID | None = None, using: str
) -> bool:
    """Tell whether a job is due that `claim` would return, or another worker is claiming at this moment."""
    if not executors or not (queues is None or queues):
        return False
    with connections[using].cursor() as cursor:
        return store_sql(connections[using]).is_due(cursor, Wanted(executors, queues, only))


def note_refused_claim(job: uuid.UUID, message: str, *, using: str) -> None:
    """Write into a queued job's row why its claim was refused, for whoever looks at it; the next claim clears it."""
    queued = ContainerJob.objects.using(using).filter(pk=job, status=JobStatus.QUEUED)
    try:
        with transaction.atomic(using=using):
            if queued.select_for_update(skip_locked=True).values_list("pk").first():
                queued.update(last_error=f"{REFUSED_CLAIM}{message}")
    except Exception as error:
        # Whatever refuses the claim may refuse this too: the log has it.
        if not is_refusal(error, using=using):
            raise

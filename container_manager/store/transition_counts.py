"""Count transitions in the database: a batch of the journal's rows, grouped by what they have in common.

To fetch each row, and to find in Python how long its job had waited or run, took nine times as much of the worker's CPU
time (PostgreSQL, batches of 2,000 rows of three queues).
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from django.db import connections

from ..jobs.histogram import BUCKET_SECONDS
from .clock import django_time
from .sql import store_sql
from .sql.statements import StoreSQL

_JOURNAL, _JOB = "container_manager_jobtransition", "container_manager_containerjob"


class TransitionCount(NamedTuple):
    """How many transitions of a queue's jobs from a status to another there were in a minute.

    ``bucket``: that of how long these jobs had waited or run (`jobs.histogram`), ``microseconds``: the sum. There is no
    bucket if the transition ends neither, or if it is not known since when. ``last``: the highest key of these rows,
    ``latest``: their latest time.
    """

    queue: str
    from_status: str
    to_status: str
    bucket: int | None
    microseconds: float
    rows: int
    last: int
    latest: datetime


def transition_counts(*, after: int, to: int, limit: int, using: str) -> list[TransitionCount]:
    """Count the first transitions, at most ``limit``, whose keys are above ``after`` and up to ``to``."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(_counts_sql(store_sql(connection)), [after, to, limit, limit])
        found = [TransitionCount(*row) for row in cursor.fetchall()]
    return [
        each._replace(microseconds=float(each.microseconds), latest=django_time(each.latest, using=using))
        for each in found
    ]


def _counts_sql(sql: StoreSQL) -> str:
    """Return the statement of a batch; its parameters: after and up to which key, and twice how many rows.

    The second LIMIT keeps the planner from computing a duration anew for each bound that it is compared with. Decimals
    or floats are summed, since the integers of some databases overflow where times are odd.
    """
    return f"""
WITH moved AS (
    SELECT t.id, t.at, j.queue, t.from_status, t.to_status, {sql.minute("t.at")} AS minute, {_since(sql)} AS since
    FROM {_JOURNAL} t JOIN {_JOB} j ON j.id = t.job_id
    WHERE t.id > %s AND t.id <= %s ORDER BY t.id LIMIT %s
), measured AS (
    SELECT moved.*, {sql.microseconds("since", "at")} AS microseconds FROM moved LIMIT %s
)
SELECT queue, from_status, to_status, {_bucket("microseconds")} AS bucket,
    SUM(CASE WHEN microseconds > 0 THEN microseconds * 1.0 ELSE 0 END), COUNT(*), MAX(id), MAX(at)
FROM measured GROUP BY minute, queue, from_status, to_status, bucket
"""


def _since(sql: StoreSQL) -> str:
    """Return SQL for since when the job ``j`` of a transition ``t`` had run, or was due; null for other transitions.

    A job's journal is a path: the row before says since when the job had the status that it leaves. A retry overwrites
    the schedule of a job that has failed since, and a job is queued anew at another time: then it is not known any more
    since when it was due, unless it had been queued by a retry.
    """

    def before(column: str) -> str:
        rows = f"{_JOURNAL} p WHERE p.job_id = t.job_id AND p.id < t.id"
        return f"(SELECT {column} FROM {rows} ORDER BY p.id DESC LIMIT 1)"

    queued = f"COALESCE({before('p.at')}, j.queued_at, j.created_at)"
    return f"""CASE
        WHEN t.from_status = 'running' THEN {before("p.at")}
        WHEN t.from_status = 'queued' AND t.to_status = 'running' THEN CASE
            WHEN j.scheduled_for > t.at OR j.queued_at > t.at
                THEN {before("CASE WHEN p.from_status = 'retrying' THEN p.at END")}
            WHEN j.scheduled_for IS NULL THEN {queued}
            ELSE {sql.greatest}({queued}, j.scheduled_for) END
    END"""


def _bucket(microseconds: str) -> str:
    """Return SQL for the number of a duration's bucket, as `jobs.histogram.bucket_of`; null if there is none."""
    whens = (f"WHEN {microseconds} <= {round(bound * 1e6)} THEN {n}" for n, bound in enumerate(BUCKET_SECONDS))
    return f"CASE {' '.join(whens)} WHEN {microseconds} IS NOT NULL THEN {len(BUCKET_SECONDS)} END"

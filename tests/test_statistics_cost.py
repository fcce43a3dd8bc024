"""Statistics cost what they show: to count what is new, and to show what there is, reads no other jobs, however many there are.

What it costs is counted, in the database's own units.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from container_manager import queue
from container_manager.models import ContainerJob, JobTransition, StatisticsProgress
from container_manager.store.aggregation import Aggregation

from .bulk_jobs import BulkJobs
from .jobs import job_in
from .test_claim_cost import PostgreSQL, fetch
from .test_idle_cost import asked_by, rows_read
from .test_statistics import counted, total

pytestmark = pytest.mark.django_db(transaction=True)
_JOURNAL = JobTransition._meta.db_table


def fill(jobs: BulkJobs, count: int) -> None:
    """Add jobs in every status, each finished one with a row in the journal."""
    for status in ("queued", "completed", "failed", "retrying"):
        jobs.add(status, count)
    jobs.add("queued", count, scheduled_for=timezone.now() + timedelta(days=1))
    jobs.add("queued", count, scheduled_for=timezone.now() - timedelta(days=1), queue="late")
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {_JOURNAL} (job_id, from_status, to_status, at, actor, reason) "
            "SELECT id, 'running', status, created_at, '', '' FROM container_manager_containerjob "
            "WHERE status IN ('completed', 'failed')"
        )
        table = {"postgresql": "VACUUM ANALYZE {}", "mysql": "ANALYZE TABLE {}", "sqlite": "ANALYZE {}"}
        cursor.execute(table[connection.vendor].format(_JOURNAL))
    jobs.analyze()


def counts_again() -> Any:
    """Count one more job that was cancelled, which was created in no minute that is over."""
    job_in("queued").mark_as_cancelled()
    return asked_by(counted)


READERS: dict[str, Callable[[], Any]] = {
    "counts_by_status": lambda: queue.counts_by_status(limit=5),
    "queue_statistics": lambda: queue.queue_statistics(limit=5),
}


def rows_by_reader() -> dict[str, int]:
    return {name: sum(rows_read(statement) for statement in asked_by(show)) for name, show in READERS.items()}


def test_counts_read_no_more_jobs_than_their_limit() -> None:
    jobs = BulkJobs()
    fill(jobs, 300)
    few = rows_by_reader()
    fill(jobs, 3000)
    assert {name: rows for name, rows in rows_by_reader().items() if rows > few[name] * 1.5 + 20} == {}


def test_counting_new_entries_costs_the_same_with_a_long_journal() -> None:
    jobs = BulkJobs()
    fill(jobs, 100)
    counted()
    StatisticsProgress.objects.update(created_to=1, created_again_to=1)
    few = sum(rows_read(statement) for statement in counts_again())
    fill(jobs, 3000)
    newest = JobTransition.objects.order_by("-id").values_list("id", flat=True)[0]
    StatisticsProgress.objects.update(counted_to=newest, marked_to=newest, counted_at=timezone.now())
    before = total("cancelled")
    assert sum(rows_read(statement) for statement in counts_again()) <= few * 1.5 + 100
    assert total("cancelled") == before + 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="a plan of PostgreSQL's")
def test_postgresql_scans_no_table_for_statistics() -> None:
    jobs, database = BulkJobs(), PostgreSQL()
    fill(jobs, 3000)
    Aggregation(keep_seconds=86400.0, using="default").step()
    newest = JobTransition.objects.order_by("-id").values_list("id", flat=True)[0]
    StatisticsProgress.objects.update(counted_to=newest, marked_to=newest, counted_at=timezone.now())
    for _ in range(20):
        job_in("queued").mark_as_cancelled()
    prune = Aggregation(keep_seconds=1, using="default").prune
    asked = {name: asked_by(act) for name, act in {**READERS, "count": counted, "prune": prune}.items()}
    assert all(asked.values())
    # Without parameters there is nothing that a plan must serve for all of.
    plans = [
        (
            sql,
            database.plan((sql, params)) if params else fetch("EXPLAIN (FORMAT JSON)", (sql, params))[0][0][0]["Plan"],
        )
        for statements in asked.values()
        for sql, params in statements
    ]
    read = {ContainerJob._meta.db_table, _JOURNAL}
    scans = [
        (node["Node Type"], sql)
        for sql, plan in plans
        for node in database.nodes(plan)
        if node.get("Relation Name") in read and node["Node Type"] == "Seq Scan"
    ]
    assert scans == []

"""A claim costs the same however many jobs there are: it takes its jobs from their indexes and looks at no others, be they
finished, not due yet, in a paused queue, or for other workers.

What it costs is counted, in the database's own units; the time it takes is a benchmark's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from container_manager import queue, store
from container_manager.models import ContainerJob

from .bulk_jobs import BulkJobs
from .jobs import THEN

pytestmark = pytest.mark.django_db(transaction=True)
_TABLE = ContainerJob._meta.db_table
_INDEXES = {"cm_job_claim", "cm_job_scheduled"}
_LIMIT = 10
_MOST = 1.5
Statement = tuple[str, Any]


def claim(**wanted: Any) -> list[store.ClaimedJob]:
    return store.claim(worker="w", **{"executors": ["default"], **wanted}, limit=_LIMIT, using="default")


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def statements(**wanted: Any) -> list[Statement]:
    """Return the statements of a claim that concern jobs."""
    asked: list[Statement] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with undone(), connection.execute_wrapper(note):
        assert len(claim(**wanted)) == _LIMIT
    return [(sql, params) for sql, params in asked if _TABLE in sql]


def fetch(prefix: str, statement: Statement) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"{prefix} {statement[0]}", statement[1])
        return list(cursor.fetchall())


class PostgreSQL:
    """Its work is counted in pages."""

    def plans(self, **wanted: Any) -> list[Any]:
        """Return the plans that serve any parameters: a worker whose driver prepares statements has no others."""
        return [self.plan(statement) for statement in statements(**wanted)]

    def plan(self, statement: Statement) -> Any:
        sql, params = statement
        numbered = sql.replace("%s", "{}").format(*(f"${n}" for n in range(1, len(params) + 1)))
        values = ", ".join(["%s"] * len(params))
        with undone(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            cursor.execute(f"PREPARE claim AS {numbered.replace('%', '%%')}", [])
            try:
                explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE claim"
                ((document,),) = fetch(explain, (f"({values})", params))
            finally:
                cursor.execute("DEALLOCATE claim")
        return (document if isinstance(document, list) else json.loads(document))[0]["Plan"]

    def nodes(self, node: Any) -> Iterator[Any]:
        yield node
        for child in node.get("Plans", ()):
            yield from self.nodes(child)

    def assert_by_index(self, **wanted: Any) -> None:
        scans = [
            node
            for plan in self.plans(**wanted)
            for node in self.nodes(plan)
            if node.get("Relation Name") == _TABLE and "Scan" in node["Node Type"]
        ]
        by_index = [node for node in scans if node["Node Type"] != "Tid Scan"]
        assert {node["Index Name"] for node in by_index} == _INDEXES
        # Each begins at a place of its index.
        assert not [node for node in by_index if "executor" not in node.get("Index Cond", "")]
        assert [node["Node Type"] for node in scans].count("Tid Scan") >= 1

    def work(self, **wanted: Any) -> float:
        return float(sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in self.plans(**wanted)))


class SQLite:
    """Its work is counted in steps of its virtual machine."""

    def assert_by_index(self, **wanted: Any) -> None:
        lines = [row[-1] for statement in statements(**wanted) for row in fetch("EXPLAIN QUERY PLAN", statement)]
        searches = [line for line in lines if line.startswith("SEARCH j ")]
        assert {line.split("INDEX ")[1].split()[0] for line in searches} == _INDEXES
        assert not [line for line in searches if "(executor=?" not in line]
        assert not [line for line in lines if line.startswith(("SCAN j", f"SCAN {_TABLE}"))]

    def work(self, **wanted: Any) -> float:
        def act() -> None:
            assert len(claim(**wanted)) == _LIMIT

        with undone():
            return self.steps(act)

    def steps(self, act: Callable[[], Any]) -> float:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        connection.ensure_connection()
        connection.connection.set_progress_handler(step, 1)
        try:
            act()
        finally:
            connection.connection.set_progress_handler(None, 1)
        return float(count)


class MariaDB:
    """Its work is counted in rows and keys that it reads of its tables."""

    def assert_by_index(self, **wanted: Any) -> None:
        for statement in statements(**wanted):
            ((document,),) = fetch("EXPLAIN FORMAT=JSON", statement)
            tables = [table for table in self.tables(json.loads(document)) if table.get("table_name") in (_TABLE, "j")]
            assert tables
            assert not [table for table in tables if table["access_type"] in ("ALL", "index")], document
            assert {table["key"] for table in tables} <= {*_INDEXES, "PRIMARY"}

    def tables(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if "table_name" in value:
                yield value
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from self.tables(each)

    def work(self, **wanted: Any) -> float:
        before = self.reads()
        with undone():
            assert len(claim(**wanted)) == _LIMIT
            return self.reads() - before

    def reads(self) -> float:
        ((total,),) = fetch(
            "",
            (
                "SELECT SUM(variable_value) FROM information_schema.session_status "
                "WHERE variable_name LIKE 'Handler_read%%'",
                [],
            ),
        )
        return float(total)


DATABASES: dict[str, Any] = {"postgresql": PostgreSQL(), "sqlite": SQLite(), "mysql": MariaDB()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("finished", "queued"),
    [(20_000, 5_000), pytest.param(1_000_000, 100_000, marks=pytest.mark.slow)],
    ids=["thousands", "a million"],
)
def test_a_claim_reads_its_jobs_from_an_index_and_no_others(finished: int, queued: int) -> None:
    database, jobs = DATABASES[connection.vendor], BulkJobs()
    jobs.add("queued", 1000)
    jobs.analyze()
    few = database.work()
    jobs.add("completed", finished)
    jobs.add("queued", queued)
    jobs.analyze()
    database.assert_by_index()
    assert database.work() <= few * _MOST


@pytest.mark.shows("explanation/performance.md#what-a-claim-reads")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [3000, pytest.param(300_000, marks=pytest.mark.slow)], ids=["thousands", "many"])
def test_a_claim_does_not_read_jobs_that_it_may_not_take(count: int) -> None:
    database, jobs = DATABASES[connection.vendor], BulkJobs()
    wanted = {"queues": ["default", "reports"]}
    jobs.add("queued", 1000)
    jobs.analyze()
    alone = database.work(**wanted)
    # All of them have the highest priority and were queued first.
    first = {"priority": 100, "queued_at": THEN - timedelta(days=100)}
    queue.pause_queue("reports")
    jobs.add("queued", count, **first, queue="reports")
    jobs.add("queued", count, **first, queue="of another worker")
    jobs.add("queued", count, **first, executor="of another worker")
    jobs.add("queued", count, **first, scheduled_for=timezone.now() + timedelta(days=1))
    jobs.analyze()
    database.assert_by_index(**wanted)
    assert database.work(**wanted) <= alone * _MOST
    # For a worker of all queues the other worker's is one more to look at.
    queue.pause_queue("of another worker")
    assert database.work() <= alone * _MOST


def test_a_claim_takes_scheduled_jobs_without_reading_those_that_are_not_due() -> None:
    database, jobs = DATABASES[connection.vendor], BulkJobs()
    now = timezone.now()
    jobs.add("queued", 1000, priority=50, scheduled_for=now - timedelta(hours=1))
    jobs.analyze()
    alone = database.work()
    jobs.add("queued", 3000, priority=50, scheduled_for=now + timedelta(days=1))
    jobs.add("queued", 3000, priority=90, scheduled_for=now + timedelta(days=1))
    jobs.analyze()
    assert database.work() <= alone * _MOST

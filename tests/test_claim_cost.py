"""A claim costs the same however many jobs there are: it takes its jobs from its index and looks at no others.

What it costs is counted, in the database's own units; the time it takes is a benchmark's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

from container_manager import store
from container_manager.models import ContainerJob

from .bulk_jobs import BulkJobs

pytestmark = pytest.mark.django_db(transaction=True)
_TABLE = ContainerJob._meta.db_table
_INDEX = "cm_job_claim"
_LIMIT = 10
_MOST = 1.5
Statement = tuple[str, Any]


def claim() -> list[store.ClaimedJob]:
    return store.claim(worker="w", executors=["default"], limit=_LIMIT, using="default")


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def statements() -> list[Statement]:
    """Return the statements of a claim."""
    asked: list[Statement] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with undone(), connection.execute_wrapper(note):
        assert len(claim()) == _LIMIT
    return [(sql, params) for sql, params in asked if _TABLE in sql]


def fetch(prefix: str, statement: Statement) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"{prefix} {statement[0]}", statement[1])
        return list(cursor.fetchall())


class PostgreSQL:
    """A claim is one statement; its work is counted in pages."""

    def plan(self) -> tuple[Any, list[Any]]:
        """Return the plan that serves any parameters: a worker whose driver prepares statements has no other."""
        ((sql, params),) = statements()
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
        whole = (document if isinstance(document, list) else json.loads(document))[0]["Plan"]
        return whole, list(self.nodes(whole))

    def nodes(self, node: Any) -> Iterator[Any]:
        yield node
        for child in node.get("Plans", ()):
            yield from self.nodes(child)

    def assert_by_index(self) -> None:
        _, nodes = self.plan()
        (candidates,) = (node for node in nodes if node.get("Subplan Name") == "CTE candidate")
        below = list(self.nodes(candidates))
        assert [
            node["Index Name"] for node in below if node.get("Relation Name") == _TABLE and "Scan" in node["Node Type"]
        ] == [_INDEX]
        assert not [node for node in below if "Sort" in node["Node Type"]]
        assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] == _TABLE]

    def work(self) -> float:
        whole, _ = self.plan()
        return float(whole["Shared Hit Blocks"] + whole["Shared Read Blocks"])


class SQLite:
    """Its work is counted in steps of its virtual machine."""

    def assert_by_index(self) -> None:
        first, *others = ([row[-1] for row in fetch("EXPLAIN QUERY PLAN", each)] for each in statements())
        assert any(f"USING INDEX {_INDEX}" in line or f"USING COVERING INDEX {_INDEX}" in line for line in first)
        assert not [line for line in first if "TEMP B-TREE" in line]
        assert not [line for lines in (first, *others) for line in lines if line.startswith(f"SCAN {_TABLE}")]

    def work(self) -> float:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with undone():
            connection.connection.set_progress_handler(count, 1)
            try:
                assert len(claim()) == _LIMIT
            finally:
                connection.connection.set_progress_handler(None, 1)
        return float(steps)


class MariaDB:
    """Its work is counted in rows and keys that it reads of its tables."""

    def assert_by_index(self) -> None:
        for number, statement in enumerate(statements()):
            ((document,),) = fetch("EXPLAIN FORMAT=JSON", statement)
            tables = [table for table in self.tables(json.loads(document)) if table.get("table_name") == _TABLE]
            assert tables
            assert not [table for table in tables if table["access_type"] in ("ALL", "index")], document
            if number == 0:
                assert [table["key"] for table in tables] == [_INDEX]
                assert "filesort" not in document

    def tables(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if "table_name" in value:
                yield value
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from self.tables(each)

    def work(self) -> float:
        before = self.reads()
        with undone():
            assert len(claim()) == _LIMIT
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

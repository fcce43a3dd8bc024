"""What a job's end costs: a finish on PostgreSQL finds each row by its key, whatever the tables were like when its plan
was made, and writes what the guarantee needs and no more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from container_manager import queue, store

pytestmark = pytest.mark.django_db(transaction=True)
_KEYS = {
    "container_manager_containerjob": "container_manager_containerjob_pkey",
    "container_manager_jobattempt": "cm_attempt_unique",
}


def finish_statement(*, skip_locked: bool) -> tuple[str, Any]:
    """Finish a job; return what the database was asked."""
    asked: list[tuple[str, Any]] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    job = queue.enqueue(command="true")
    store.claim(worker="w", executors=["default"], limit=1, using="default")
    outcome = store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)
    with connection.execute_wrapper(note):
        assert store.finish([outcome], worker="w", skip_locked=skip_locked, using="default") == {(job.pk, 1)}
    (statement,) = asked
    return statement


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Others finish row by row.")
@pytest.mark.parametrize("skip_locked", [False, True])
def test_a_finish_statement_planned_on_empty_tables_finds_rows_by_their_keys(skip_locked: bool) -> None:
    sql, params = finish_statement(skip_locked=skip_locked)
    numbered = sql.replace("%s", "{}").format(*(f"${n}" for n in range(1, len(params) + 1)))
    with transaction.atomic(), connection.cursor() as cursor:
        store.prepare_session(lease_seconds=60, using="default")
        cursor.execute(f"PREPARE finish AS {numbered}")
        try:
            cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE finish ({', '.join(['%s'] * len(params))})", params)
            ((document,),) = cursor.fetchall()
        finally:
            cursor.execute("DEALLOCATE finish")
        # The session's settings end with it.
        transaction.set_rollback(True)
    plan = (document if isinstance(document, list) else json.loads(document))[0]["Plan"]
    scans = [node for node in nodes(plan) if node.get("Relation Name") in _KEYS and "Scan" in node["Node Type"]]
    assert scans
    assert [scan.get("Index Name") for scan in scans] == [_KEYS[scan["Relation Name"]] for scan in scans]


def rows_written() -> Counter[tuple[str, str]]:
    """Return how many rows this session has written, by table and kind, that it has not reported yet."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables")
        return Counter(
            {
                (table.removeprefix("container_manager_"), kind): count
                for table, *counts in cursor.fetchall()
                for kind, count in zip(("insert", "update", "delete"), counts, strict=True)
            }
        )


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL counts rows within a transaction.")
def test_a_job_writes_six_rows_between_its_claim_and_its_end() -> None:
    queue.enqueue(command="true")
    with transaction.atomic():
        before = rows_written()
        (job,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
        outcome = store.Outcome(job_id=job.id, attempt=1, status="completed", exit_code=0)
        assert store.finish([outcome], worker="w", using="default") == {(job.id, 1)}
        written = rows_written() - before
    assert written == {
        ("containerjob", "update"): 2,
        ("jobattempt", "insert"): 1,
        ("jobattempt", "update"): 1,
        ("jobtransition", "insert"): 2,
    }

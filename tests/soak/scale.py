"""The claim finds its jobs by its index, however many others there are."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from .workers import say

_FINISHED, _QUEUED, _FEW, _LIMIT, _ROUNDS = 1_000_000, 100_000, 1_000, 10, 200
# A claim may look at so many more rows or pages than on a small table.
_MOST = 1.5


def run(folder: Path, database: Any) -> list[str]:
    _fill("queued", 0, _FEW)
    few, few_seconds, _ = _look()
    _fill("queued", _FEW, _QUEUED - _FEW)
    _fill("completed", _QUEUED, _FINISHED)
    many, many_seconds, plan = _look()
    problems = []
    if (there := _counts()) != {"queued": _QUEUED, "completed": _FINISHED}:
        problems.append(f"the tables were not filled: {there}")
    if not _uses_the_index(plan):
        problems.append(f"the claim does not keep to its index: {plan}")
    if many > few * _MOST:
        problems.append(f"a claim of {_LIMIT} reads {many} instead of {few}")
    read = f"reads {many} pages or rows instead of {few}, and " if few else ""
    say(
        f"{_FINISHED} finished and {_QUEUED} queued jobs beside {_FEW} queued: the claim's SELECT {read}takes "
        f"{many_seconds / few_seconds:.2f} times as long"
    )
    return problems


def _counts() -> dict[str, int]:
    from django.db.models import Count

    from container_manager.models import ContainerJob

    return dict(ContainerJob.objects.values_list("status").annotate(Count("pk")))


def _fill(status: str, start: int, count: int) -> None:
    """Copy a job of this status many times, by the database itself."""
    from django.db import connection
    from django.utils import timezone

    from container_manager.models import ContainerJob

    now = timezone.now()
    ended = {"launched_at": now, "completed_at": now} if status == "completed" else {"queued_at": now}
    job = ContainerJob.objects.create(command="true", status=status, **ended)
    quote, key = connection.ops.quote_name, ContainerJob._meta.pk
    columns = [quote(field.column) for field in ContainerJob._meta.local_concrete_fields if not field.primary_key]
    identifier = {
        "sqlite": "printf('%032x', n)",
        "postgresql": "lpad(to_hex(n), 32, '0')::uuid",
        "mysql": "LPAD(HEX(n), 32, '0')",
    }[connection.vendor]
    chosen = ", ".join("n % 101" if column == quote("priority") else column for column in columns)
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT {start} UNION ALL SELECT n + 1 FROM numbers WHERE n < {start + count - 1})"
    table, literal = ContainerJob._meta.db_table, str(key.get_db_prep_value(job.pk, connection))
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute("SET SESSION max_recursive_iterations = 10000000", None)
            insert = f"INSERT INTO {table} (id, {', '.join(columns)}) {numbers} SELECT {identifier}, {chosen} FROM numbers, {table}"
        else:
            insert = f"{numbers} INSERT INTO {table} (id, {', '.join(columns)}) SELECT {identifier}, {chosen} FROM numbers, {table}"
        cursor.execute(f"{insert} WHERE id = '{literal}'", None)
        cursor.execute(f"DELETE FROM {table} WHERE id = '{literal}'", None)
        cursor.execute(f"ANALYZE {'TABLE ' if connection.vendor == 'mysql' else ''}{table}", None)
        if connection.vendor == "mysql":
            cursor.fetchall()


def _look() -> tuple[int, float, Any]:
    """Return what the claim's SELECT reads, its median time in seconds, and its plan."""
    from django.db import connection

    from container_manager.queue.dialects import dialect_for

    sql, params = dialect_for(connection).candidates(connection, ["default"], None, None, _LIMIT)
    seconds = []
    with connection.cursor() as cursor:
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            cursor.execute(sql, params)
            found = cursor.fetchall()
            seconds.append(time.perf_counter() - start)
        assert len(found) == _LIMIT
        if connection.vendor == "postgresql":
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
            answer = cursor.fetchone()[0]
            plan = (answer if isinstance(answer, list) else json.loads(answer))[0]["Plan"]
            return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], median(seconds), plan
        if connection.vendor == "mysql":
            cursor.execute("FLUSH STATUS", None)
            cursor.execute(sql, params)
            cursor.fetchall()
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%%'", [])
            read = sum(int(value) for _, value in cursor.fetchall())
            cursor.execute(f"EXPLAIN FORMAT=JSON {sql}", params)
            return read, median(seconds), json.loads(cursor.fetchone()[0])
        # SQLite counts nothing that could be asked for: its plan must do.
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
        return 0, median(seconds), [row[3] for row in cursor.fetchall()]


def _uses_the_index(plan: Any) -> bool:
    text = json.dumps(plan)
    return "cm_job_claim" in text and not any(
        word in text for word in ('"Sort"', "filesort", "TEMP B-TREE", "Seq Scan on container_manager_containerjob")
    )

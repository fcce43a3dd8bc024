"""No page of the dashboard and no list of its API reads a table that grows without an index, whatever it is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client

from container_manager.dashboard.access import Act
from container_manager.dashboard.search import Page
from container_manager.models import ContainerJob, JobAttempt, JobTransition

from .bulk_jobs import BulkJobs
from .dashboard_users import user_who_may
from .jobs import job_in
from .protocol.records import register
from .span_counts import add_counts
from .test_claim_cost import fetch

pytestmark = pytest.mark.django_db(transaction=True)
_GROWING = [model._meta.db_table for model in (ContainerJob, JobAttempt, JobTransition)]
_MOST_QUERIES = 12
# PostgreSQL's own default of the setting `jit_above_cost`.
_JIT_ABOVE_COST = 100_000
SEARCHES = [
    "", "status:failed", "status:completed", "status:queued", "status:pending", "status:running", "status:retrying",
    "status:failed,cancelled", "queue:reports", "queue:reports status:failed", "executor:gpu", "worker:w1",
    "reason:oom", "reason:oom status:failed", "label.team:web", "label.team:web status:failed", "name:job-7",
    "name:job-7*", "job-12", "name:same", "name:same queue:reports", "id:00000000", "created-after:1h",
    "created-before:1h status:completed", "status:pending,queued,running,retrying,completed,failed,cancelled",
    "worker:w1,w2,w3,w4,w5,w6,w7,w8", "name:a*,b*,c*,d*,e*,f*,g*", "id:0100,0200,0300,0400,0500,0600,0700,0800,0900,0a00",
    "one two three four five six seven eight",
]  # fmt: skip


def fill() -> ContainerJob:
    """Add so many jobs that a planner that could scan them would be wrong to, and return one with an attempt."""
    jobs, finished = BulkJobs(), datetime.now(UTC) - timedelta(days=1)
    register("w1")
    for name in ("default", "reports"):
        # As the maintainer has counted them.
        add_counts(0, name, kept=False)
    for status, count in (
        ("completed", 12_000),
        ("failed", 3000),
        ("cancelled", 500),
        ("queued", 3000),
        ("pending", 50),
        ("running", 20),
        ("retrying", 40),
    ):
        name, worker = "same" if status == "cancelled" else "", "w1" if status == "running" else ""
        jobs.add(status, count, name=name, status_changed_at=finished, worker=worker)
    jobs.add("queued", 500, scheduled_for=finished + timedelta(days=2))
    for number in range(30):
        job = job_in("failed", name=f"job-{number}", queue="reports", labels={"team": "web"}, attempt=1)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO container_manager_jobattempt "
            "(job_id, number, worker, executor, engine, handle, launched_at, finished_at, reason, message) "
            "SELECT id, 1, 'w', 'default', '', '', launched_at, launched_at, '', '' FROM container_manager_containerjob "
            "WHERE status IN ('completed', 'failed')"
        )
        cursor.execute(
            "INSERT INTO container_manager_jobtransition (job_id, from_status, to_status, at, actor, reason) "
            "SELECT id, 'running', status, created_at, '', '' FROM container_manager_containerjob "
            "WHERE status IN ('completed', 'failed')"
        )
        analyze = {"postgresql": "VACUUM ANALYZE {}", "mysql": "ANALYZE TABLE {}", "sqlite": "ANALYZE {}"}
        for table in _GROWING:
            cursor.execute(analyze[connection.vendor].format(table))
    return job


def scans(sql: str, params: Any) -> Iterator[str]:
    """Yield what the plan of a statement reads of the tables that grow without an index.

    Or that PostgreSQL would compile it (JIT), which takes longer than all that a page asks for.
    """
    names = {*_GROWING}
    for table in _GROWING:
        names.update(re.findall(rf'{table}[`"]? (?:AS )?[`"]?(\w+)', sql))
    if connection.vendor == "postgresql":
        ((document,),) = fetch("EXPLAIN (FORMAT JSON)", (sql, params))
        plan = (document if isinstance(document, list) else json.loads(document))[0]["Plan"]
        if plan["Total Cost"] > _JIT_ABOVE_COST:
            yield f"an estimated cost of {plan['Total Cost']}"
        yield from (
            f"{node['Node Type']} {node['Relation Name']}"
            for node in _nodes(plan)
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in names
        )
    elif connection.vendor == "mysql":
        # The columns are id, select_type, table, type, …
        yield from (str(row) for row in fetch("EXPLAIN", (sql, params)) if row[2] in names and row[3] == "ALL")
    else:
        lines = [row[-1] for row in fetch("EXPLAIN QUERY PLAN", (sql, params))]
        yield from (
            line for line in lines if line.startswith("SCAN ") and line.split()[1] in names and " USING " not in line
        )


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def test_no_page_and_no_list_reads_jobs_without_an_index() -> None:
    job, client, asked = fill(), Client(), list[tuple[str, Any]]()
    client.force_login(user_who_may(*Act))
    api = f"jobs/{job.pk}"
    urls = [f"/jobs/jobs/?{urlencode({'q': text})}" for text in SEARCHES]
    urls += [f"/jobs/{page}" for page in ("", "queues/", "workers/", "failures/", api + "/", f"{api}/log/")]
    urls += [
        f"/jobs/api/v1/{path}"
        for path in (
            *("jobs", "jobs/count", "queues", "workers", "bulk-acts", api),
            *(f"{api}/{part}" for part in ("transitions", "attempts", "log", "explanation")),
        )
    ]

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("SELECT", "WITH")):
            asked.append((sql, params))
        return execute(sql, params, many, context)

    found, queries = dict[str, list[str]](), dict[str, int]()
    while urls:
        url, first = urls.pop(0), len(asked)
        with connection.execute_wrapper(note):
            response = client.get(url)
        assert response.status_code == 200, url
        queries[url] = len(asked) - first
        for sql, params in asked[first:]:
            if lines := list(scans(sql, params)):
                found.setdefault(url, []).append(f"{sql} {params}: {lines}")
        page = response.context["page"] if response.context and "page" in response.context else None
        # The second page, and back from there.
        if isinstance(page, Page) and (cursor := {0: page.next, 1: page.previous}.get(url.count("cursor"))):
            urls.append(f"{url}&{urlencode({'cursor': cursor})}")
    assert found == {}
    assert {url: number for url, number in queries.items() if number > _MOST_QUERIES} == {}
    assert [url for url in queries if "cursor" in url]

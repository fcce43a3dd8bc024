"""What a worker asks of the database while it has nothing to do, and what its sweeps read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.models import JobAttempt
from container_manager.store.notifications import CANCELLED, can_notify
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.timers import Timer

from .bulk_jobs import BulkJobs
from .jobs import job_in
from .test_claim_cost import DATABASES, fetch

pytestmark = pytest.mark.django_db(transaction=True)
_LOOKS = 12


def listening(loop: WorkerLoop) -> threading.Event:
    """Return what is set once the listener of a worker, which does not run yet, has said that it has connected."""
    listens, put = threading.Event(), loop._hints.put
    if not can_notify("default"):
        listens.set()

    def note(hint: str = "") -> None:
        put(hint)
        # The last of what it says then.
        if hint == CANCELLED:
            listens.set()

    loop._hints.put = note  # type: ignore[method-assign]
    return listens


def statements_of_a_worker(**options: Any) -> list[str]:
    """Run a worker without work until it has looked for some several times; return what it asked since the third look.

    Looks count once it listens: what that hints at it has looked for by the third.
    """
    asked: list[str] = []
    looks = 0
    settings = AppSettings(poll_seconds=0.06, lease_seconds=600.0)
    loop = WorkerLoop(settings=settings, executors={"default": ProcessExecutor()}, options=WorkerOptions(**options))
    listens = listening(loop)
    # What it asks every few seconds is due once, however long this takes.
    timers = [value for value in vars(loop._maintenance).values() if isinstance(value, Timer)]
    for timer in (loop._sweep._timer, *timers):
        timer.seconds = 3600.0

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal looks
        if sql.startswith("SELECT") and "lease_expires_at" in sql and "jobattempt" in sql and listens.is_set():
            looks += 1
            if looks == _LOOKS:
                loop.stop()
        if 3 < looks <= _LOOKS:
            asked.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        loop.run()
    # What follows the last look is its end.
    return asked[: max(index for index, sql in enumerate(asked) if "jobattempt" in sql) + 1]


@pytest.mark.shows("explanation/performance.md#what-an-idle-worker-asks")
def test_an_idle_worker_runs_one_statement_per_poll_and_locks_nothing() -> None:
    asked = statements_of_a_worker()
    assert len(asked) == _LOOKS - 3
    assert {sql.split()[0] for sql in asked} == {"SELECT"}


def test_a_worker_beside_a_backlog_of_others_runs_no_further_statements() -> None:
    later = timezone.now() + timedelta(days=1)
    queue.enqueue(command="true", scheduled_for=later)
    queue.enqueue(command="true", queue="reports")
    queue.enqueue(command="true", executor="of another worker")
    asked = statements_of_a_worker(queues=("default",))
    assert len(asked) == _LOOKS - 3


def test_an_idle_worker_notices_a_job_without_a_notification() -> None:
    loop = WorkerLoop(
        settings=AppSettings(poll_seconds=0.06),
        executors={"default": ProcessExecutor()},
        options=WorkerOptions(max_jobs=1),
    )
    looks = 0

    def enqueue_late(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal looks
        looks += sql.startswith("SELECT") and "lease_expires_at" in sql and "jobattempt" in sql
        if looks == _LOOKS:
            looks += 1
            # As a row that another session has inserted: nobody is told.
            job_in("queued")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(enqueue_late):
        assert loop.run() == 1


def add_attempts(jobs: BulkJobs, count: int) -> None:
    """Add closed attempts of the worker ``w``, each of a job of its own."""
    JobAttempt.objects.all().delete()
    jobs.add("completed", count)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO container_manager_jobattempt "
            "(job_id, number, worker, executor, engine, handle, launched_at, finished_at, reason, message) "
            "SELECT id, 1, 'w', 'default', '', '', launched_at, launched_at, '', '' FROM container_manager_containerjob "
            "WHERE status = 'completed'"
        )
        cursor.execute(
            {"postgresql": "VACUUM ANALYZE {}", "mysql": "ANALYZE TABLE {}", "sqlite": "ANALYZE {}"}[
                connection.vendor
            ].format(JobAttempt._meta.db_table)
        )
    # Else those of another test's jobs stay.
    jobs.analyze()


def asked_by(act: Callable[[], Any]) -> list[tuple[str, Any]]:
    asked: list[tuple[str, Any]] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        act()
    return [(sql, params) for sql, params in asked if sql.startswith("SELECT")]


def rows_read(statement: tuple[str, Any]) -> float:
    """Return the pages (PostgreSQL), steps (SQLite) or rows (MariaDB) that a statement reads."""
    database: Any = DATABASES[connection.vendor]
    if connection.vendor == "mysql":
        before = database.reads()
        fetch("", statement)
        return float(database.reads() - before)
    if connection.vendor == "postgresql":
        ((document,),) = fetch("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)", statement)
        return float(document[0]["Plan"]["Shared Hit Blocks"] + document[0]["Plan"]["Shared Read Blocks"])
    return float(database.steps(lambda: fetch("", statement)))


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda: store.owned_attempts(worker="w", using="default"), id="compare"),
        pytest.param(lambda: store.rescue(worker="other", engines={}, using="default"), id="rescue"),
        pytest.param(
            lambda: store.look(worker="other", executors=["default"], queues=None, using="default"), id="look"
        ),
    ],
)
def test_closed_attempts_cost_a_worker_nothing(act: Callable[[], Any]) -> None:
    jobs = BulkJobs()
    add_attempts(jobs, 100)
    few = sum(rows_read(statement) for statement in asked_by(act))
    add_attempts(jobs, 4000)
    assert sum(rows_read(statement) for statement in asked_by(act)) <= few * 1.5 + 20


def test_the_sweep_for_unschedulable_jobs_does_not_read_the_backlog() -> None:
    jobs = BulkJobs()

    def sweep() -> list[Any]:
        return store.unschedulable_jobs(executors=["default"], queues=None, older_than_seconds=60, using="default")

    jobs.add("queued", 100)
    lost = job_in("queued", executor="gone")
    jobs.analyze()
    assert sweep() == [(lost.pk, "gone", "default")]
    few = sum(rows_read(statement) for statement in asked_by(sweep))
    jobs.add("queued", 5000)
    jobs.analyze()
    assert sum(rows_read(statement) for statement in asked_by(sweep)) <= few * 1.5 + 20

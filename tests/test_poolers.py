"""Workers and their connections: through a real PgBouncer in transaction mode, Django's own pool, other drivers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from django.db import connection

from container_manager import queue
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, Worker
from container_manager.store.consistency import examine
from container_manager.store.notifications import Listener
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.database import Database

from .pgbouncer import pgbouncer
from .polling import PATIENCE_SECONDS, eventually
from .test_cli_errors import container, environment
from .workers import worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="PgBouncer is for PostgreSQL."),
]
# Fewer than two workers have: they must share.
_CONNECTIONS = 3
_PREPARED = {"server_side_binding": True, "prepare_threshold": 1}


@pytest.fixture
def pooler() -> Iterator[str]:
    with pgbouncer(connections=_CONNECTIONS) as folder:
        yield folder


def through(pooler: str, **options: Any) -> dict[str, str]:
    """Return the variables of a worker that connects through the pooler."""
    return {"CM_WORKER_CONNECTION": json.dumps({"HOST": pooler, "OPTIONS": options})}


def settings_seen(pooler: str) -> Counter[tuple[str, ...]]:
    """Return what clients of each connection of the pool see of the settings that workers change."""
    names = ("enable_seqscan", "jit", "plan_cache_mode", "idle_in_transaction_session_timeout")
    seen: Counter[tuple[str, ...]] = Counter()
    with ExitStack() as stack:
        for _ in range(_CONNECTIONS):
            client = stack.enter_context(
                psycopg.connect(host=pooler, user="postgres", dbname=str(connection.settings_dict["NAME"]))
            )
            # Each keeps its transaction open, and so its connection to the server.
            row = client.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names)).fetchone()
            assert row is not None
            seen[row] += 1
    return seen


@pytest.mark.parametrize("options", [{}, pytest.param(_PREPARED, marks=pytest.mark.slow)], ids=["default", "prepared"])
@pytest.mark.shows("howto/poolers.md#pgbouncer-and-its-like")
def test_two_workers_finish_all_jobs_through_pgbouncer_and_do_not_disturb_its_other_clients(
    options: dict[str, Any], pooler: str, tmp_path: Path
) -> None:
    before = settings_seen(pooler)
    log = tmp_path / "log"
    variables = through(pooler, **options)
    with worker("--slots", "4", log=log, **variables), worker("--slots", "4", log=log, **variables):
        queue.enqueue_many(ContainerJob(command=f"sh -c 'exit {number % 2}'", max_retries=1) for number in range(40))
        eventually(lambda: ContainerJob.objects.filter(status__in=["completed", "failed"]).count() == 40)
        assert settings_seen(pooler) == before
        eventually(lambda: "is reached through a connection pooler" in log.read_text())
        assert Worker.objects.count() == 2, log.read_text()
    diagnosis = examine()
    assert (diagnosis.jobs, diagnosis.problems) == ({"completed": 20, "failed": 20}, [])
    said = log.read_text()
    assert "ERROR" not in said
    assert "did not answer" not in said
    assert "refused" not in said


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), _PREPARED], ids=["default", "prepared"])
def test_run_and_logs_print_a_jobs_output_through_pgbouncer(options: dict[str, Any], pooler: str) -> None:
    variables = through(pooler, **options)
    script = "for i in $(seq 50); do echo line $i; sleep 0.02; done; exit 7"
    done = container("run", "--name", "told", "--", "sh", "-c", script, **variables)
    printed = "".join(f"line {number}\n" for number in range(1, 51))
    assert (done.returncode, done.stdout) == (7, printed)
    assert container("logs", "told", **variables).stdout == printed


@pytest.mark.shows("howto/poolers.md#pgbouncer-and-its-like")
def test_the_setting_for_poolers_is_obeyed(tmp_path: Path) -> None:
    """A pooler that passes a server's process id on is not recognized."""
    told = json.dumps({"DISABLE_SERVER_SIDE_CURSORS": True})
    with worker(log=tmp_path / "log", CM_WORKER_CONNECTION=told):
        eventually(lambda: "is reached through a connection pooler" in (tmp_path / "log").read_text())


def test_a_worker_leaves_its_callers_session_as_it_was() -> None:
    queue.enqueue(command="true")
    options = WorkerOptions(drain=True)
    assert WorkerLoop(settings=AppSettings(), executors={"default": ProcessExecutor()}, options=options).run() == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('enable_seqscan'), current_setting('jit')")
        assert cursor.fetchone() == ("on", "on")


@pytest.fixture
def session() -> Iterator[Database]:
    """Give a worker's session."""
    database = Database("default", lease_seconds=30.0)
    yield database
    database.end()


def asked(statement: str, *params: object) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return [value for (value,) in cursor.fetchall()]


@pytest.mark.shows("howto/worker.md#postgresql-settings-for-speed")
def test_a_worker_prepares_the_statements_that_it_repeats(session: Database) -> None:
    def statement() -> list[Any]:
        return asked("SELECT name FROM container_manager_pausedqueue WHERE name = %s", "a")

    for _ in range(2):
        assert session.do(statement) == []
    prepared = session.do(lambda: asked("SELECT statement FROM pg_prepared_statements"))
    assert "SELECT name FROM container_manager_pausedqueue WHERE name = $1" in prepared


def test_a_worker_goes_on_when_a_migration_changes_the_type_of_a_column(session: Database) -> None:
    def names() -> list[Any]:
        return asked("SELECT name FROM widened WHERE name <> %s", "")

    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("CREATE TABLE widened (name varchar(10)); INSERT INTO widened VALUES ('a')")
            for _ in range(3):
                assert session.attempt(names) == ["a"]
            cursor.execute("ALTER TABLE widened ALTER name TYPE varchar(20)")
            assert session.attempt(names) is None
            assert eventually(lambda: session.attempt(names)) == ["a"]
    finally:
        with other.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS widened")
        other.close()


@pytest.mark.shows("howto/poolers.md#djangos-connection-pool")
def test_a_worker_takes_no_connection_of_djangos_pool(tmp_path: Path) -> None:
    """Each of its threads would keep a connection: the pool of one would leave the others waiting for 30 seconds."""
    pool = json.dumps({"OPTIONS": {"pool": {"min_size": 1, "max_size": 1}}})
    log = tmp_path / "log"
    with worker("--slots", "4", log=log, CM_WORKER_CONNECTION=pool):
        queue.enqueue_many(ContainerJob(command="true") for _ in range(20))
        eventually(lambda: ContainerJob.objects.filter(status="completed").count() == 20)
    assert "did not answer" not in log.read_text()


@pytest.mark.parametrize(
    ("variables", "heard"),
    [
        ({"CM_WORKER_PSYCOPG2": "1"}, "psycopg2 ready cancelled\n"),
        (
            {"CM_WORKER_CONNECTION": json.dumps({"ENGINE": "tests.derived_backend"})},
            "psycopg ready cancelled\n",
        ),
    ],
    ids=["psycopg2", "derived backend"],
)
@pytest.mark.shows("howto/poolers.md#drivers-and-backends")
def test_workers_are_notified_by_any_driver_and_any_backend_of_postgresql(
    variables: dict[str, str], heard: str
) -> None:
    command = [sys.executable, "-m", "tests.notification_listener"]
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.stdout == heard, done.stderr


def test_a_worker_runs_jobs_with_psycopg2(tmp_path: Path) -> None:
    queue.enqueue_many(ContainerJob(command=f"sh -c 'exit {number % 2}'", max_retries=1) for number in range(10))
    with worker(log=tmp_path / "log", CM_WORKER_PSYCOPG2="1"):
        eventually(lambda: ContainerJob.objects.filter(status__in=["completed", "failed"]).count() == 10)
    assert "lost its connection" not in (tmp_path / "log").read_text()
    assert examine().problems == []


@pytest.mark.shows("howto/poolers.md#web-processes-through-the-pooler-workers-without")
def test_a_job_queued_through_pgbouncer_wakes_a_worker_that_is_connected_directly(pooler: str) -> None:
    hints: SimpleQueue[str] = SimpleQueue()
    listener = Listener("default", hints.put, answer_seconds=PATIENCE_SECONDS)
    listener.start()
    try:
        assert {hints.get(timeout=PATIENCE_SECONDS) for _ in range(2)} == {"ready", "cancelled"}
        assert container("submit", "true", **through(pooler)).returncode == 0
        assert hints.get(timeout=PATIENCE_SECONDS) == "ready"
    finally:
        listener.stop()

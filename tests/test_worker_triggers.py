"""A worker without the jobs' triggers does not run: its jobs would be neither guarded nor recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from container_manager import queue
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.statemachine.trigger_constraint import trigger_constraints

from .polling import PATIENCE_SECONDS
from .workers import eventually, start_worker, worker

pytestmark = pytest.mark.django_db(transaction=True)
JOURNAL = "cm_job_journal"


@pytest.fixture(autouse=True)
def _installed_again() -> Iterator[None]:
    yield
    for constraint in trigger_constraints(ContainerJob):
        constraint.install(ContainerJob, connection)


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def drop_journal() -> None:
    on = " ON container_manager_containerjob" if connection.vendor == "postgresql" else ""
    run(f"DROP TRIGGER {JOURNAL}{on}")


def assert_refuses(log: Path) -> None:
    process = start_worker("--drain", log=log)
    assert process.wait(timeout=PATIENCE_SECONDS) == 1
    text = log.read_text()
    assert JOURNAL in text
    assert "'migrate --database default' installs them" in text
    assert "Traceback" not in text
    assert not Worker.objects.exists()


def test_a_worker_does_not_start_without_a_trigger(tmp_path: Path) -> None:
    job = queue.enqueue(command="true")
    drop_journal()
    assert_refuses(tmp_path / "log")
    job.refresh_from_db()
    assert (job.status, job.attempt) == ("queued", 0)


@pytest.mark.slow
def test_a_worker_does_not_start_with_another_trigger_of_that_name(tmp_path: Path) -> None:
    drop_journal()
    run(
        {
            "sqlite": f"CREATE TRIGGER {JOURNAL} AFTER UPDATE ON container_manager_containerjob BEGIN SELECT 1; END",
            "mysql": f"CREATE TRIGGER {JOURNAL} AFTER UPDATE ON container_manager_containerjob "
            "FOR EACH ROW SET @nothing = 1",
            "postgresql": f"CREATE TRIGGER {JOURNAL} AFTER UPDATE ON container_manager_containerjob "
            f"FOR EACH ROW EXECUTE FUNCTION {JOURNAL}_mark()",
        }[connection.vendor]
    )
    assert_refuses(tmp_path / "log")
    drop_journal()


@pytest.mark.slow
@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL can disable a trigger.")
def test_a_worker_does_not_start_with_a_disabled_trigger(tmp_path: Path) -> None:
    run(f"ALTER TABLE container_manager_containerjob DISABLE TRIGGER {JOURNAL}")
    assert_refuses(tmp_path / "log")


def test_a_worker_that_loses_a_trigger_lets_its_job_end_claims_no_more_and_fails(tmp_path: Path) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    os.mkfifo(go)
    first = queue.enqueue(command=f"sh -c 'read word < {go}'")
    second = queue.enqueue(command="true")
    with worker("--slots", "1", log=log, lease_seconds=2.0, CM_WORKER_OUTAGE_SECONDS="600") as process:
        eventually(JobAttempt.objects.exists)
        drop_journal()
        eventually(lambda: f"triggers are missing: {JOURNAL}" in log.read_text())
        assert process.poll() is None
        go.write_text("\n")
        assert process.wait(timeout=PATIENCE_SECONDS) == 1
    assert "'migrate --database default' installs them" in log.read_text()
    statuses = ContainerJob.objects.filter(pk__in=[first.pk, second.pk]).order_by("pk").values_list("status", flat=True)
    assert list(statuses) == ["completed", "queued"]
    assert not Worker.objects.exists()


def test_the_run_command_cancels_its_job_if_a_trigger_is_missing() -> None:
    drop_journal()
    refused = pytest.raises(CommandError, match=JOURNAL)
    with refused:
        call_command("container", "run", "--", "true", stdout=StringIO(), stderr=StringIO())
    assert ContainerJob.objects.get().status == "cancelled"

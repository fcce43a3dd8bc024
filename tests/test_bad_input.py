"""What no check has kept from the queue fails with its reason, and the worker lives on; wrong settings end it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import DataError, IntegrityError, connection, transaction
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.executors.base import LaunchSpec, Rejected
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, Worker
from container_manager.worker import WorkerLoop, WorkerOptions

from .jobs import journal_of
from .polling import PATIENCE_SECONDS, eventually
from .protocol.records import register
from .typed_commands import typed
from .workers import start_worker, worker

pytestmark = pytest.mark.django_db(transaction=True)
_SETTINGS = {
    "QUEUES": ["default", "other"],
    "SECRETS": {"env:CM_SECRET_*": "", "file:*": "shop.use_files"},
    "UNREACHABLE_SECONDS": 0.2,
    "UNSCHEDULABLE_AFTER_SECONDS": 0.2,
}


def put(**fields: Any) -> ContainerJob:
    """Queue a job past every check of Django's."""
    given = {"command": "true", "max_retries": 0, "queued_at": timezone.now(), **fields}
    return ContainerJob.objects.bulk_create([ContainerJob(**given, status="queued")])[0]


def settled(job: ContainerJob) -> ContainerJob:
    eventually(lambda: ContainerJob.objects.filter(pk=job.pk).exclude(status__in=["queued", "running"]).exists())
    job.refresh_from_db()
    return job


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def running_worker(log: Path) -> Iterator[Any]:
    """A worker that is still there at the end, runs a good job, ends well and had nothing to trace."""
    with worker("--slots", "2", log=log, CM_WORKER_SETTINGS=json.dumps(_SETTINGS)) as process:
        yield process
        assert settled(put()).status == "completed"
        process.terminate()
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert "Traceback" not in log.read_text()


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty command": ({"command": ""}, "start", "empty"),
    "only space": ({"command": " \n"}, "start", "empty"),
    "missing program": ({"command": "/no/such/program"}, "start", "No such file"),
    "not in PATH": ({"command": "no-such-program-anywhere"}, "start", "No such file"),
    "broken quoting": ({"command": "echo 'oops"}, "start", "quoting"),
    "long quoting": ({"command": f"echo '{'x' * 1_000_000}'"}, "start", "Word 2 of the command has 1000000 bytes"),
    "deep folder": ({"working_directory": "/" + "a/" * 300}, "start", "at most 255 names, not 300"),
    "large environment": ({"environment": {"A": "x" * 1_000_000}}, "start", "has 1000002 bytes"),
    "no variable name": ({"environment": {"": "x"}}, "start", "cannot be the name"),
    "equals sign": ({"environment": {"A=B": "x"}}, "start", "cannot be the name"),
    "two lines": ({"environment": {"A": "x\nB=y"}}, "start", "more than one line"),
    "two lines of a name": ({"secrets": {"A\nB": "env:CM_SECRET_A"}}, "start", "cannot be the name"),
    "unknown request": ({"container": {"privileged": True}}, "start", "'privileged' is not known"),
    "requests are a list": ({"container": ["privileged"]}, "start", "JSON object"),
    "missing secret": ({"secrets": {"S": "env:CM_SECRET_NONE"}}, "start", "CM_SECRET_NONE"),
    "odd secret": ({"secrets": {"S": "/etc/shadow"}}, "start", "'/etc/shadow' is not allowed"),
    "secret of no job": ({"secrets": {"S": "env:CM_REGISTRY_A"}}, "start", "Allowed by the setting SECRETS: env:CM_SE"),
    "secret beside the folder": ({"secrets": {"S": "file:../beside"}}, "start", "neither"),
    "missing secret file": ({"secret_files": {"s": "file:none"}}, "start", "'file:none' cannot be read"),
    "secret file of no job": ({"secret_files": {"s": "env:HOME"}}, "start", "'env:HOME' is not allowed"),
    "secret file elsewhere": ({"secret_files": {"../s": "env:CM_SECRET_A"}}, "start", "cannot be a secret's file"),
    "the worker's variable": ({"environment": {"CONTAINER_MANAGER_JOB": "x"}}, "start", "cannot set"),
    "the worker's variable as a secret": (
        {"secrets": {"CONTAINER_MANAGER_X": "env:CM_SECRET_A"}},
        "start",
        "cannot set",
    ),
    "no file's name": ({"secrets": {"S": "file:" + "a" * 5000}}, "start", "cannot be read"),
    "missing folder": ({"working_directory": "/no/such/folder"}, "start", "/no/such/folder"),
    "unknown executor": ({"executor": "mainframe"}, "unschedulable", "no executor 'mainframe'. Known: default."),
    "unknown queue": ({"queue": "nowhere"}, "unschedulable", "no queue 'nowhere'. Known: default, other."),
    "environment is a list": ({"environment": ["A"]}, "start", "environment"),
    "environment is a number": ({"environment": 5}, "start", "environment"),
    "secret files are a list": ({"secret_files": ["env:CM_SECRET_A"]}, "start", "secret_files"),
    "secrets are text": ({"secrets": "env:CM_SECRET_A"}, "start", "secrets"),
    "no memory": ({"memory_bytes": 0}, "", ""),
    "negative CPU": ({"cpu_count": -1.0}, "", ""),
    "no time": ({"command": "sleep 600", "timeout_seconds": 0, "grace_seconds": 0}, "timeout", "longer than 0 s"),
}


@pytest.mark.usual_statements
@pytest.mark.usefixtures("running_worker")
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_each_bad_job_fails_with_its_reason_and_the_worker_survives() -> None:
    jobs = {name: put(**fields) for name, (fields, _, _) in BAD.items()}
    found = {}
    for name, job in jobs.items():
        settled(job)
        found[name] = (job.status, job.failure_reason, job.last_error)
    problems = {
        name: found[name]
        for name, (_, reason, words) in BAD.items()
        if reason and (found[name][:2] != ("failed", reason) or words not in found[name][2])
    }
    assert problems == {}
    for job in jobs.values():
        assert journal_of(job) in ([("queued", "running"), ("running", end)] for end in ("failed", "completed"))
        attempt = job.attempts.get()
        assert attempt.finished_at is not None
        assert (attempt.reason, attempt.message) == (job.failure_reason, job.last_error)


@pytest.mark.usefixtures("running_worker")
def test_json_that_python_cannot_parse_fails_only_its_own_job() -> None:
    """Python reads no number of more than 4300 digits, and Django writes none."""
    value = f'{{"pids": {"9" * 5000}}}'
    for column in ("environment", "secrets", "secret_files", "labels", "container"):
        job = put(scheduled_for=timezone.now() + timezone.timedelta(hours=1))
        with connection.cursor() as cursor:
            key = ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)
            cursor.execute(
                f"UPDATE container_manager_containerjob SET {column} = %s, scheduled_for = NULL WHERE id = %s",
                [value, key],
            )
        # The row as it is cannot be loaded.
        row = ContainerJob.objects.filter(pk=job.pk).values("status", "failure_reason", "last_error")
        eventually(lambda row=row: row.get()["status"] == "failed")
        assert row.get()["failure_reason"] == "start"
        assert "must be a JSON object" in row.get()["last_error"]


class QuotingExecutor(ProcessExecutor):
    """Says of a job why it cannot be started, in words that are not its own."""

    def submit(self, spec: LaunchSpec) -> str:
        raise Rejected("start", "He said \0 and \ud800." + "!" * 20_000_000)


def test_a_message_with_nul_or_broken_text_is_stored() -> None:
    job = queue.enqueue(command="true")
    executors = {"default": QuotingExecutor()}
    WorkerLoop(settings=AppSettings(), executors=executors, options=WorkerOptions(drain=True)).run()
    job.refresh_from_db()
    assert job.failure_reason == "start"
    assert job.last_error.startswith(r"He said \x00 and \ud800.!!")
    assert len(job.last_error) < 10_100


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_bytes": -1},
        {"timeout_seconds": -1},
        {"grace_seconds": -1},
        {"max_retries": -1},
        {"retry_count": -1},
        {"priority": -1},
        {"priority": 101},
    ],
    ids=str,
)
def test_the_database_refuses_negative_limits(fields: dict[str, int]) -> None:
    with pytest.raises((IntegrityError, DataError)), transaction.atomic():
        put(**fields)
    assert not ContainerJob.objects.exists()


def unknown(**options: Any) -> list[Any]:
    values: dict[str, Any] = {"executors": ["default"], "queues": None, "older_than_seconds": 0.0, **options}
    return [job for job, _, _ in store.unschedulable_jobs(**values, using="default")]


def test_jobs_known_to_another_worker_or_new_or_not_due_are_not_failed_as_unschedulable() -> None:
    # SQLite's clock has whole milliseconds: for it a job of this very one was queued in the future.
    job = put(executor="docker", queue="nightly", queued_at=timezone.now() - timezone.timedelta(seconds=1))
    assert unknown() == [job.pk]
    assert unknown(executors=["default", "docker"]) == []
    assert unknown(executors=["docker"], queues=["default"]) == [job.pk]
    assert unknown(executors=["docker"], queues=["nightly"]) == []
    assert unknown(older_than_seconds=60.0) == []
    register("expired", executors=("docker",), lease_seconds=-1.0)
    assert unknown() == [job.pk]
    register("alive", executors=("docker",))
    assert unknown() == []
    Worker.objects.filter(pk="alive").update(queues=["nightly"])
    assert unknown(queues=["default"]) == []
    Worker.objects.all().delete()
    ContainerJob.objects.filter(pk=job.pk).update(scheduled_for=timezone.now() + timezone.timedelta(hours=1))
    assert unknown() == []


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        (["--slots", "0"], {}, "--slots must be at least 1"),
        (["--max-jobs", "-1"], {}, "--max-jobs must be at least 1"),
        (["--alive-file", "/nowhere/alive"], {}, "--alive-file /nowhere/alive cannot be written: No such file"),
        (["--executor", "mainframe"], {}, "no executor 'mainframe'. Known: default."),
        (["--queue", "nowhere"], {"QUEUES": ["default"]}, "no queue 'nowhere'. Known: default."),
        ([], {"POLL_SECOND": 1}, "'POLL_SECOND'"),
        ([], {"UNREACHABLE_SECONDS": -1}, "must be a positive number, not -1"),
        ([], {"EXECUTORS": {"default": {"BACKEND": "no.such.Executor"}}}, "no.such.Executor"),
        ([], {"EXECUTORS": {"default": {"BACKEND": "container_manager.executors.process.ProcessExecutor", "OPTIONS": {"colour": 1}}}}, "colour"),
    ],
)  # fmt: skip
def test_a_worker_with_wrong_settings_ends_with_a_message(
    options: list[str], given: dict[str, Any], words: str, settings: Any
) -> None:
    settings.CONTAINER_MANAGER = given
    ended = typed("worker", *options)
    assert ended.returncode != 0
    assert words in ended.stderr
    assert not Worker.objects.exists()


@pytest.mark.without_database
def test_the_process_of_a_worker_with_wrong_settings_ends_without_a_traceback(log: Path) -> None:
    process = start_worker("--executor", "mainframe", log=log)
    try:
        assert process.wait(timeout=PATIENCE_SECONDS) not in (0, None)
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert "no executor 'mainframe'. Known: default." in said
    assert "Traceback" not in said
    assert not Worker.objects.exists()

"""Deployments are not the jobs' fault: what nobody serves yet waits, and an attempt that is lost costs no retry."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from container_manager import queue, store
from container_manager.conf import AppSettings, RetrySettings
from container_manager.models import ContainerJob, Worker
from container_manager.store.consistency import examine
from container_manager.worker.maintenance import Maintenance
from container_manager.worker.outcomes import failed

from .jobs import row_of
from .protocol.records import register
from .workers import eventually, worker

pytestmark = pytest.mark.django_db
RETRY = RetrySettings(initial_seconds=10.0, jitter=0.0, free_losses=2)


def run_and_fail(job: ContainerJob, reason: str, *, retry: RetrySettings = RETRY) -> tuple[str, int, float | None]:
    """Run a job once and let it fail; return its status, its counted retries, and the delay of its next attempt."""
    (claimed,) = store.claim(worker="w", executors=["default"], only=job.pk, limit=1, using="default")
    outcome = failed(claimed, reason, "", retry=retry)
    assert store.finish([outcome], worker="w", using="default") == {(job.pk, claimed.attempt)}
    job.refresh_from_db()
    found = (job.status, job.retry_count, outcome.retry_after_seconds)
    if job.status == "retrying":
        job.mark_as_queued()
    return found


@pytest.mark.shows("explanation/worker.md#a-job-fails")
class TestLostAttempts:
    def test_a_lost_attempt_costs_no_retry(self) -> None:
        job = queue.enqueue(command="true", max_retries=1)
        assert [run_and_fail(job, reason) for reason in ("lost", "error", "lost", "error")] == [
            ("retrying", 0, 10.0),
            ("retrying", 1, 10.0),
            ("retrying", 1, 20.0),
            ("failed", 1, None),
        ]

    def test_a_job_that_kills_its_worker_each_time_fails_in_the_end(self) -> None:
        job = queue.enqueue(command="true", max_retries=2)
        found = []
        while not found or found[-1][0] == "retrying":
            found.append(run_and_fail(job, "lost"))
        assert [retries for _, retries, _ in found] == [0, 0, 1, 2, 2]
        assert (row_of(job)["status"], row_of(job)["attempt"]) == ("failed", 5)

    @pytest.mark.parametrize(
        ("max_retries", "retry"),
        [(0, RETRY), (1, replace(RETRY, reasons=("error",)))],
        ids=["without retries", "without losses in its reasons"],
    )
    def test_a_job_that_must_not_run_again_is_not_retried_after_a_loss(
        self, max_retries: int, retry: RetrySettings
    ) -> None:
        job = queue.enqueue(command="true", max_retries=max_retries)
        assert run_and_fail(job, "lost", retry=retry) == ("failed", 0, None)

    def test_losses_and_failures_of_one_batch_are_counted_separately(self) -> None:
        jobs = {reason: queue.enqueue(command="true") for reason in ("lost", "error", "node_lost")}
        claimed = {job.id: job for job in store.claim(worker="w", executors=["default"], limit=9, using="default")}
        outcomes = [failed(claimed[job.pk], reason, "", retry=RETRY) for reason, job in jobs.items()]
        assert len(store.finish(outcomes, worker="w", using="default")) == 3
        assert {reason: row_of(job)["retry_count"] for reason, job in jobs.items()} == {
            "lost": 0, "error": 1, "node_lost": 0,
        }  # fmt: skip

    def test_a_retry_by_hand_does_not_count_as_a_loss(self) -> None:
        job = queue.enqueue(command="true", max_retries=1)
        assert [run_and_fail(job, "error")[0] for _ in range(2)] == ["retrying", "failed"]
        queue.retry(job)
        assert run_and_fail(job, "lost") == ("retrying", 2, 10.0)


def printed(verb: str) -> str:
    out = StringIO()
    call_command("container", verb, stdout=out)
    return out.getvalue()


def maintenance(**settings: object) -> Maintenance:
    register("maintainer")
    return Maintenance(replace(AppSettings(), **settings), using="default")


@pytest.mark.shows("howto/deploy.md#an-executor-or-a-queue-that-no-worker-serves")
class TestUnservedJobs:
    def test_a_job_that_no_worker_serves_waits_and_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        jobs = [queue.enqueue(command="true", executor="gpu", queue=name) for name in ("a", "a", "b")]
        served, work = queue.enqueue(command="true"), maintenance()
        for _ in range(3):
            work._sweep.hurry()
            with caplog.at_level(logging.WARNING):
                work.run("maintainer", {}, retries_are_due=False)
        assert [record.getMessage() for record in caplog.records] == [
            f"No live worker serves executor 'gpu' in queue '{name}': its jobs wait" for name in ("a", "b")
        ]
        assert {row_of(job)["status"] for job in (*jobs, served)} == {"queued"}
        register("gpu worker", executors=("gpu",))
        Worker.objects.filter(pk="gpu worker").update(queues=["a"])
        assert store.unserved_destinations(using="default") == [("gpu", "b")]

    def test_queue_doctor_and_admin_name_jobs_that_no_worker_serves(self, admin_client: Client) -> None:
        for executor, name in (("default", "a"), ("gpu", "a"), ("default", "b")):
            queue.enqueue(command="true", executor=executor, queue=name)
        register("worker")
        Worker.objects.update(queues=["a"], engines={"default": "one"})
        found = queue.queue_statistics()
        assert {name: (entry.queued, entry.unserved) for name, entry in found.items()} == {
            "a": (2, ["gpu"]), "b": (1, ["default"]),
        }  # fmt: skip
        assert "no worker serves gpu" in printed("queue")
        notes = examine().notes
        assert notes == [
            f"no live worker serves executor {executor} in queue {name}: its jobs wait"
            for executor, name in (("default", "b"), ("gpu", "a"))
        ]
        assert f"Note: {notes[0]}\n" in printed("doctor")
        page = admin_client.get("/admin/container_manager/containerjob/").content.decode()
        assert "No live worker serves executor gpu in queue a: its jobs wait." in page

    def test_doctor_notes_an_alias_that_is_more_than_one_engine(self) -> None:
        for name in ("one", "two"):
            register(name)
            Worker.objects.filter(pk=name).update(host=f"host {name}", engines={"docker": name, "same": "x"})
        assert examine().notes == [
            "executor docker is 2 engines, none of which can adopt another's attempts: one (host one), two (host two)"
        ]

    def test_a_job_that_no_worker_serves_fails_after_the_time_in_the_settings(self) -> None:
        early, other = (queue.enqueue(command="true", executor=name) for name in ("gpu", "default"))
        work = maintenance(unschedulable_after_seconds=600.0)
        work.run("maintainer", {}, retries_are_due=False)
        assert row_of(early)["status"] == "queued"
        ContainerJob.objects.update(queued_at=early.queued_at - timedelta(hours=1))
        work._sweep.hurry()
        work.run("maintainer", {}, retries_are_due=False)
        assert (row_of(early)["status"], row_of(early)["failure_reason"]) == ("failed", "unschedulable")
        assert row_of(other)["status"] == "queued"

    def test_finding_jobs_that_no_worker_serves_takes_no_query_per_job(self) -> None:
        queue.enqueue_many([ContainerJob(command="true", queue=f"q{number % 2}") for number in range(20)])
        with CaptureQueriesContext(connection) as queries:
            assert store.unserved_destinations(using="default") == [("default", "q0"), ("default", "q1")]
        # All in one statement, and the workers. MariaDB: the queues that statistics know (none yet), then the executors
        # with the last queue of each, the one before it, and no other.
        assert len(queries) == (1 + 3 + 1 if connection.vendor == "mysql" else 1 + 1)
        of_jobs = [query["sql"] for query in queries if ContainerJob._meta.db_table in query["sql"]]
        assert all("LIMIT 1" in sql or "EXISTS" in sql for sql in of_jobs)


@pytest.mark.usual_statements
@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("howto/deploy.md#an-executor-or-a-queue-that-no-worker-serves")
def test_a_job_for_an_executor_that_only_the_next_release_knows_waits_for_it(tmp_path: Path) -> None:
    """As in a rolling deployment: the web servers are new already, the workers are not."""
    job, log = queue.enqueue(command="true", executor="new"), tmp_path / "log"
    settings = {"UNREACHABLE_SECONDS": 0.1, "POLL_SECONDS": 0.1}
    with worker("--slots", "1", log=log, CM_WORKER_SETTINGS=json.dumps(settings)):
        eventually(lambda: "No live worker serves executor 'new'" in log.read_text())
        assert row_of(job)["status"] == "queued"
        backend = "container_manager.executors.process.ProcessExecutor"
        later = {"EXECUTORS": {name: {"BACKEND": backend} for name in ("default", "new")}}
        with worker("--slots", "1", log=log, CM_WORKER_SETTINGS=json.dumps(later)):
            eventually(lambda: row_of(job)["status"] == "completed")
    assert (row_of(job)["attempt"], row_of(job)["retry_count"]) == (1, 0)

"""Running a queue: enqueueing, pausing, counting, pruning, and looking for a job that lies."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from container_manager import queue, store
from container_manager.models import ContainerJob, JobAttempt, JobLog, JobTransition, Worker
from container_manager.statemachine import InvalidTransition
from container_manager.store.consistency import examine

from .jobs import THEN, job_in, journal_of

pytestmark = pytest.mark.django_db


def claim(limit: int = 10, **options: object) -> list[store.ClaimedJob]:
    return store.claim(worker="w", executors=["default"], limit=limit, using="default", **options)


def container(*words: str) -> str:
    out = io.StringIO()
    call_command("container", *words, stdout=out)
    return out.getvalue()


class TestEnqueueing:
    def test_one_job_is_queued_from_the_start(self) -> None:
        job = queue.enqueue(command="echo hi", priority=90)
        assert (job.status, journal_of(job)) == ("queued", [])
        assert [claimed.id for claimed in claim()] == [job.pk]

    def test_it_is_part_of_the_callers_transaction(self) -> None:
        with transaction.atomic():
            queue.enqueue(command="true")
            transaction.set_rollback(True)
        assert not ContainerJob.objects.exists()

    def test_a_wrong_field_is_named(self) -> None:
        with pytest.raises(ValidationError) as refusal:
            queue.enqueue(command="echo 'oops", priority=101)
        assert {"command", "priority"} <= set(refusal.value.message_dict)

    def test_many_are_queued_in_few_statements(self, django_assert_max_num_queries: Callable) -> None:
        with django_assert_max_num_queries(8):
            jobs = queue.enqueue_many(ContainerJob(command=f"echo {n}") for n in range(100))
        assert ContainerJob.objects.filter(status="queued").count() == 100
        jobs[0].refresh_from_db()
        jobs[0].mark_as_cancelled()

    def test_many_are_all_or_none_and_the_wrong_one_is_named(self) -> None:
        with pytest.raises(ValidationError, match="Job 1"):
            queue.enqueue_many([ContainerJob(command="true"), ContainerJob(command="'")])
        assert not ContainerJob.objects.exists()

    def test_a_schedule_holds_jobs_back(self) -> None:
        later = timezone.now() + timedelta(hours=1)
        queue.enqueue(command="true", scheduled_for=later)
        queue.enqueue_many([ContainerJob(command="true")], scheduled_for=later)
        assert claim() == []


class TestRetryingByHand:
    def test_a_failed_job_is_queued_again(self) -> None:
        job = job_in("failed")
        assert queue.retry(job, actor="alice", reason="fixed").pk == job.pk
        assert job.status == "queued"
        assert journal_of(job) == [("failed", "retrying"), ("retrying", "queued")]

    @pytest.mark.parametrize("status", ["completed", "cancelled"])
    def test_a_finished_one_runs_as_a_new_job_that_remembers_it(self, status: str) -> None:
        job = job_in(status, name="report", environment={"A": "1"})
        again = queue.retry(job, actor="alice")
        assert again.pk != job.pk
        assert (again.origin, again.status, again.name, again.environment, again.created_by) == (
            job.pk, "queued", "report", {"A": "1"}, "alice",
        )  # fmt: skip
        job.refresh_from_db()
        assert job.status == status

    def test_one_that_has_not_ended_is_refused(self) -> None:
        job = job_in("running")
        with pytest.raises(InvalidTransition):
            queue.retry(job)
        assert job.status == "running"


class TestPausing:
    def test_no_job_is_taken_from_a_paused_queue(self) -> None:
        queue.enqueue(command="true", queue="slow")
        other = queue.enqueue(command="true", queue="fast")
        assert queue.pause_queue("slow", by="alice")
        assert not queue.pause_queue("slow")
        assert [job.id for job in claim()] == [other.pk]
        assert queue.paused_queues() == ["slow"]
        assert queue.resume_queue("slow")
        assert not queue.resume_queue("slow")
        assert len(claim()) == 1


class TestStatistics:
    def test_each_queue_is_counted_by_what_it_waits_for(self) -> None:
        queue.enqueue(command="true", queue="a")
        queue.enqueue(command="true", queue="a", scheduled_for=timezone.now() + timedelta(hours=1))
        job_in("running", queue="a")
        job_in("retrying", queue="b")
        job_in("queued", queue="b").mark_as_cancelled()
        job_in("completed", queue="b")
        queue.pause_queue("c")
        found = queue.queue_statistics()
        a, b, c = found["a"], found["b"], found["c"]
        assert (a.queued, a.scheduled, a.running, a.retrying) == (1, 1, 1, 0)
        assert a.oldest is not None
        # The completed one is of another day.
        assert (b.retrying, b.finished, b.paused, c.paused) == (1, {"cancelled": 1}, False, True)
        assert "paused" in container("queue", "--pause", "a")
        assert next(entry["paused"] for entry in json.loads(container("queue", "--resume", "a", "--json"))) is False

    def test_millions_of_finished_jobs_are_not_counted(self, django_assert_num_queries: Callable) -> None:
        with django_assert_num_queries(3):
            queue.queue_statistics()


class TestPruning:
    def test_old_finished_jobs_go_with_all_that_is_theirs(self) -> None:
        old, new, waiting = job_in("queued"), job_in("queued"), job_in("queued")
        for job in (old, new):
            job.mark_as_cancelled()
        attempt = old.attempts.create(number=1, worker="w", executor="default", launched_at=THEN, finished_at=THEN)
        JobLog.objects.create(attempt=attempt, sequence=0, stream="stdout", data=b"x")
        ContainerJob.objects.filter(pk=old.pk).update(status_changed_at=timezone.now() - timedelta(days=8))
        assert container("prune", "--days", "7") == "1 jobs deleted\n"
        assert set(ContainerJob.objects.values_list("pk", flat=True)) == {new.pk, waiting.pk}
        assert not JobAttempt.objects.exists()
        assert not JobLog.objects.exists()
        assert set(JobTransition.objects.values_list("job", flat=True)) == {new.pk}

    def test_a_job_with_an_open_attempt_stays(self) -> None:
        job = job_in("queued")
        job.mark_as_cancelled()
        job.attempts.create(number=1, worker="w", executor="default", launched_at=THEN)
        assert queue.prune_jobs(before=timezone.now() + timedelta(days=1)) == 0

    def test_a_limit_and_the_statuses_are_kept_to(self) -> None:
        for _ in range(3):
            job_in("queued").mark_as_cancelled()
        later = timezone.now() + timedelta(days=1)
        assert queue.prune_jobs(before=later, statuses=["completed"]) == 0
        assert queue.prune_jobs(before=later, limit=2) == 2
        with pytest.raises(ValueError, match="running"):
            queue.prune_jobs(before=later, statuses=["running"])


class TestDoctor:
    def lived(self) -> ContainerJob:
        """Return a job that ran twice and completed, as a worker would leave it."""
        job = queue.enqueue(command="true")
        for number, (status, after) in enumerate([("failed", 0.0), ("completed", None)], start=1):
            ContainerJob.objects.retries_due().update(scheduled_for=None)
            store.promote_retries(using="default")
            assert len(claim()) == 1
            outcome = store.Outcome(job_id=job.pk, attempt=number, status=status, retry_after_seconds=after)
            assert store.finish([outcome], worker="w", using="default") == {(job.pk, number)}
        job.refresh_from_db()
        return job

    @pytest.mark.shows("explanation/worker.md#is-everything-consistent")
    def test_a_true_life_has_no_problems(self) -> None:
        job = self.lived()
        diagnosis = examine()
        assert diagnosis.problems == []
        assert (diagnosis.jobs, diagnosis.attempts, diagnosis.transitions) == ({"completed": 1}, 2, 6)
        assert journal_of(job)[-1] == ("running", "completed")
        assert "0 problems" in container("doctor", "--finished")

    def test_a_job_that_has_not_ended_counts_on_demand(self) -> None:
        queue.enqueue(command="true")
        assert container("doctor").endswith("0 problems\n")
        with pytest.raises(SystemExit):
            container("doctor", "--finished")

    def test_a_running_job_of_a_live_worker_is_well(self) -> None:
        queue.enqueue(command="true")
        worker = Worker(id="w", host="h", pid=1, lease_expires_at=timezone.now())
        store.register_worker(worker, lease_seconds=60, using="default")
        claim()
        assert examine().problems == []

    @pytest.mark.parametrize(
        ("lie", "words"),
        [
            (lambda job: job.transitions.filter(to_status="running").delete(), "the journal breaks"),
            (lambda job: job.transitions.last().delete(), "the journal ends at running"),
            (lambda job: job.transitions.create(from_status="completed", to_status="queued", at=THEN), "no edge"),
            (lambda job: job.attempts.filter(number=1).delete(), "numbered [2]"),
            (lambda job: job.attempts.filter(number=2).delete(), "the last attempt is 1"),
            (lambda job: job.attempts.filter(number=2).update(finished_at=None), "has no lease"),
        ],
        ids=["gap", "end", "edge", "first attempt", "last attempt", "left open"],
    )
    @pytest.mark.shows("explanation/worker.md#is-everything-consistent")
    def test_each_lie_is_found(self, lie: Callable[[ContainerJob], object], words: str) -> None:
        job = self.lived()
        lie(job)
        assert any(str(job.pk) in problem and words in problem for problem in examine().problems), examine().problems
        with pytest.raises(SystemExit) as verdict:
            container("doctor")
        assert verdict.value.code == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has NOTIFY.")
@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
def test_workers_are_woken_when_a_job_is_queued_or_cancelled() -> None:
    from container_manager.store.notifications import CHANNEL

    listener = connection.copy()
    try:
        with listener.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        job = queue.enqueue(command="true")
        job.mark_as_cancelled()
        job_in("pending").mark_as_queued()
        heard = list(listener.connection.notifies(timeout=10, stop_after=3))
        assert len(heard) == 3
    finally:
        listener.close()

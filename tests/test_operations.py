"""Operate a queue: enqueue, retry, pause, count, prune, and look for inconsistent jobs."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models.signals import post_delete, pre_delete
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.models import ContainerJob, JobAttempt, JobLog, JobTransition, Worker
from container_manager.statemachine import InvalidTransition
from container_manager.store.consistency import examine
from container_manager.worker.maintenance import Maintenance

from .jobs import THEN, job_in, journal_of
from .polling import PATIENCE_SECONDS
from .protocol.records import register

pytestmark = pytest.mark.django_db


def claim(limit: int = 10, **options: object) -> list[store.ClaimedJob]:
    return store.claim(worker="w", executors=["default"], limit=limit, using="default", **options)


def container(*words: str) -> str:
    out = io.StringIO()
    call_command("container", *words, stdout=out)
    return out.getvalue()


class TestEnqueueing:
    def test_enqueue_creates_a_queued_job_without_journal_entries(self) -> None:
        job = queue.enqueue(command="echo hi", priority=90)
        assert (job.status, journal_of(job)) == ("queued", [])
        assert [claimed.id for claimed in claim()] == [job.pk]

    def test_enqueue_rolls_back_with_the_callers_transaction(self) -> None:
        with transaction.atomic():
            queue.enqueue(command="true")
            transaction.set_rollback(True)
        assert not ContainerJob.objects.exists()

    def test_enqueue_names_each_invalid_field(self) -> None:
        with pytest.raises(ValidationError) as refusal:
            queue.enqueue(command="echo 'oops", priority=101)
        assert {"command", "priority"} <= set(refusal.value.message_dict)

    @pytest.mark.parametrize("value", [["echo", "a"], b"echo a", {"echo": "a"}, 7])
    def test_a_command_that_is_no_string_is_refused_with_a_hint_to_shlex_join(self, value: Any) -> None:
        for create in (
            lambda: queue.enqueue(command=value),
            lambda: queue.enqueue_many([ContainerJob(command=value)]),
            lambda: ContainerJob.objects.create_job(command=value),
        ):
            with pytest.raises(ValidationError, match=r"shlex\.join\(\) makes one of a list"):
                create()
        with pytest.raises(ValidationError) as refusal:
            queue.enqueue(command="true", name=value, image=value)
        assert {"name", "image"} == set(refusal.value.message_dict)
        assert not ContainerJob.objects.exists()

    def test_enqueue_many_takes_few_statements(self, django_assert_max_num_queries: Callable) -> None:
        with django_assert_max_num_queries(8):
            jobs = queue.enqueue_many(ContainerJob(command=f"echo {n}") for n in range(100))
        assert ContainerJob.objects.filter(status="queued").count() == 100
        jobs[0].refresh_from_db()
        jobs[0].mark_as_cancelled()

    def test_enqueue_many_creates_all_jobs_or_none_and_names_the_invalid_one(self) -> None:
        with pytest.raises(ValidationError, match="Job 1"):
            queue.enqueue_many([ContainerJob(command="true"), ContainerJob(command="'")])
        assert not ContainerJob.objects.exists()

    def test_no_job_is_claimed_before_the_time_it_is_scheduled_for(self) -> None:
        later = timezone.now() + timedelta(hours=1)
        queue.enqueue(command="true", scheduled_for=later)
        queue.enqueue_many([ContainerJob(command="true")], scheduled_for=later)
        assert claim() == []


@pytest.mark.django_db(transaction=True)
def test_asynchronous_code_enqueues_and_retries_as_synchronous_code_does() -> None:
    later = timezone.now() + timedelta(hours=1)
    job = async_to_sync(queue.aenqueue)(command="true", scheduled_for=later)
    many = async_to_sync(queue.aenqueue_many)([ContainerJob(command="true") for _ in range(2)], scheduled_for=later)
    assert {(each.status, each.scheduled_for) for each in (job, *many)} == {("queued", later)}
    with pytest.raises(ValidationError):
        async_to_sync(queue.aenqueue)(command="'")
    again = async_to_sync(queue.aretry)(job_in("failed"), actor="alice", reason="fixed")
    assert (again.status, again.status_changed_by, again.status_changed_reason) == ("queued", "alice", "fixed")


def test_output_is_that_of_the_last_or_the_requested_attempt_in_order() -> None:
    job = job_in("running")
    assert job.output() == b""
    for number in (1, 2):
        attempt = job.attempts.create(number=number, worker="w", executor="default", launched_at=THEN)
        for sequence, stream in enumerate(["stdout", "stderr", "stdout"]):
            attempt.logs.create(sequence=sequence, stream=stream, data=b"%d%d\xff" % (number, sequence))
    assert job.output() == b"20\xff21\xff22\xff"
    assert job.output(1) == b"10\xff11\xff12\xff"
    assert job.output(attempt=1, stream="stderr") == b"11\xff"
    assert job.output(stream="stdout") == b"20\xff22\xff"
    assert (job.output(3), job.output(0)) == (b"", b"")


class TestRetryingByHand:
    def test_retry_queues_a_failed_job_again(self) -> None:
        job = job_in("failed")
        assert queue.retry(job, actor="alice", reason="fixed").pk == job.pk
        assert job.status == "queued"
        assert journal_of(job) == [("failed", "retrying"), ("retrying", "queued")]

    @pytest.mark.parametrize("status", ["completed", "cancelled"])
    def test_retry_of_a_completed_or_cancelled_job_enqueues_a_new_one_that_names_its_origin(self, status: str) -> None:
        job = job_in(status, name="report", environment={"A": "1"})
        again = queue.retry(job, actor="alice", reason="the source has changed")
        assert again.pk != job.pk
        assert list(again.transitions.values_list("from_status", "to_status", "actor", "reason")) == [
            ("pending", "queued", "alice", "the source has changed")
        ]
        assert (again.origin, again.status, again.name, again.environment, again.created_by) == (
            job.pk, "queued", "report", {"A": "1"}, "alice",
        )  # fmt: skip
        job.refresh_from_db()
        assert job.status == status

    def test_retry_of_a_running_job_is_refused(self) -> None:
        job = job_in("running")
        with pytest.raises(InvalidTransition):
            queue.retry(job)
        assert job.status == "running"


class TestPausing:
    def test_no_job_of_a_paused_queue_is_claimed(self) -> None:
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
    def test_statistics_count_the_jobs_of_each_queue_by_status(self) -> None:
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
        # The completed job ended on another day.
        assert (b.retrying, b.finished, b.paused, c.paused) == (1, {"cancelled": 1}, False, True)
        assert "paused" in container("queue", "--pause", "a")
        assert next(entry["paused"] for entry in json.loads(container("queue", "--resume", "a", "--json"))) is False

    @pytest.mark.skipif(connection.vendor == "mysql", reason="MariaDB finds lanes step by step")
    def test_statistics_take_five_queries_however_many_executors_there_are(
        self, django_assert_num_queries: Callable
    ) -> None:
        for executor in ("default", "gpu", "cpu"):
            queue.enqueue(command="true", executor=executor)
        with django_assert_num_queries(5):
            queue.queue_statistics()


def retry_until(job: ContainerJob, status: str) -> None:
    """Retry a failed job; with ``failed``, until it has failed again, in a while."""
    queue.retry(job)
    if status == "failed":
        job.refresh_from_db()
        job.mark_as_running()
        job.mark_as_failed()
        ContainerJob.objects.filter(pk=job.pk).update(status_changed_at=timezone.now() + timedelta(hours=1))


class TestPruning:
    def test_prune_deletes_old_finished_jobs_with_their_attempts_logs_and_journal(self) -> None:
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

    def test_prune_keeps_a_job_with_an_open_attempt(self) -> None:
        job = job_in("queued")
        job.mark_as_cancelled()
        job.attempts.create(number=1, worker="w", executor="default", launched_at=THEN)
        assert queue.prune_jobs(before=timezone.now() + timedelta(days=1)) == 0

    @pytest.mark.parametrize("status_since", ["queued", "failed"])
    def test_prune_keeps_a_job_that_was_retried_since_it_was_found(self, status_since: str) -> None:
        job, other = (job_in("running") for _ in range(2))
        for each in (job, other):
            each.mark_as_failed()
        before = timezone.now() + timedelta(seconds=1)
        retries = [lambda: retry_until(job, status_since)]

        def intrude(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            # The second look: it has no limit.
            if "status_changed_at" in sql and sql.startswith("SELECT") and "LIMIT" not in sql and retries:
                retries.pop()()
            return execute(sql, *args)

        with connection.execute_wrapper(intrude):
            assert queue.prune_jobs(before=before) == 1
        assert list(ContainerJob.objects.values_list("pk", "status")) == [(job.pk, status_since)]

    def test_a_job_that_was_too_young_to_prune_is_pruned_once_it_is_old_enough(self) -> None:
        job_in("queued").mark_as_cancelled()
        pruning = store.Pruning(using="default")
        now = timezone.now()
        assert pruning.delete(before=now - timedelta(days=1), size=10) == (0, False)
        assert pruning.delete(before=now + timedelta(days=1), size=10) == (1, True)

    def test_jobs_that_ended_at_the_same_time_are_all_considered_for_pruning(self) -> None:
        for _ in range(3):
            job_in("queued").mark_as_cancelled()
        ContainerJob.objects.update(status_changed_at=THEN)
        pruning = store.Pruning(using="default")
        found = [pruning.delete(before=timezone.now(), size=1) for _ in range(4)]
        assert found == [(1, True), (1, True), (1, True), (0, False)]

    @pytest.mark.parametrize("signal", [pre_delete, post_delete], ids=["pre_delete", "post_delete"])
    @pytest.mark.parametrize("model", [ContainerJob, JobAttempt])
    def test_prune_sends_signals_that_have_receivers(self, signal: Any, model: Any) -> None:
        job = job_in("queued")
        job.mark_as_cancelled()
        job.attempts.create(number=1, worker="w", executor="default", launched_at=THEN, finished_at=THEN)
        heard: list[Any] = []

        def receive(instance: Any, **kwargs: Any) -> None:
            heard.append(type(instance))

        signal.connect(receive, sender=model)
        try:
            assert queue.prune_jobs(before=timezone.now() + timedelta(days=1)) == 1
        finally:
            signal.disconnect(receive, sender=model)
        assert heard == [model]

    def test_of_all_workers_only_the_oldest_prunes(self) -> None:
        register("old")
        register("young")
        job_in("queued").mark_as_cancelled()
        for worker, left in (("young", 1), ("old", 0)):
            if store.look(worker=worker, executors=[], queues=None, using="default").maintains:
                maintenance = Maintenance(AppSettings(prune_after_seconds=-60.0), using="default")
                maintenance.run(worker, {}, retries_are_due=False)
            assert ContainerJob.objects.count() == left

    def test_prune_respects_its_limit_and_statuses_and_refuses_unfinished_ones(self) -> None:
        for _ in range(3):
            job_in("queued").mark_as_cancelled()
        later = timezone.now() + timedelta(days=1)
        assert queue.prune_jobs(before=later, statuses=["completed"]) == 0
        assert queue.prune_jobs(before=later, limit=2) == 2
        with pytest.raises(ValueError, match="running"):
            queue.prune_jobs(before=later, statuses=["running"])


class TestDoctor:
    def retried_and_completed(self) -> ContainerJob:
        """Return a job that failed once and then completed, as a worker would leave it."""
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
    def test_doctor_finds_no_problem_in_a_consistent_job(self) -> None:
        job = self.retried_and_completed()
        diagnosis = examine()
        assert diagnosis.problems == []
        assert (diagnosis.jobs, diagnosis.attempts, diagnosis.transitions) == ({"completed": 1}, 2, 6)
        assert journal_of(job)[-1] == ("running", "completed")
        found = container("doctor", "--finished").splitlines()
        assert found == ["1 jobs (1 completed), 2 attempts, 6 transitions", "0 problems"]

    def test_doctor_counts_an_unfinished_job_as_a_problem_only_with_the_option_finished(self) -> None:
        queue.enqueue(command="true")
        assert container("doctor").endswith("0 problems\n")
        with pytest.raises(SystemExit):
            container("doctor", "--finished")

    def test_doctor_asks_the_engines_only_with_the_option_executors(self, settings: Any) -> None:
        backend = "container_manager.executors.kubernetes.KubernetesExecutor"
        # An address of nobody: the cluster does not answer.
        entry = {"BACKEND": backend, "OPTIONS": {"kubeconfig": "/nowhere/kubeconfig"}}
        settings.CONTAINER_MANAGER = {"INSTALL": "a", "EXECUTORS": {"far": entry}}
        assert container("doctor").endswith("0 problems\n")
        with pytest.raises(SystemExit):
            container("doctor", "--executors")

    def test_doctor_finds_no_problem_in_a_running_job_of_a_live_worker(self) -> None:
        queue.enqueue(command="true")
        worker = Worker(id="w", host="h", pid=1, lease_expires_at=timezone.now())
        store.register_worker(worker, lease_seconds=60, using="default")
        claim()
        assert examine().problems == []

    @pytest.mark.parametrize(
        ("damage", "words"),
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
    def test_doctor_finds_each_inconsistency(self, damage: Callable[[ContainerJob], object], words: str) -> None:
        job = self.retried_and_completed()
        damage(job)
        assert any(str(job.pk) in problem and words in problem for problem in examine().problems), examine().problems
        with pytest.raises(SystemExit) as verdict:
            container("doctor")
        assert verdict.value.code == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has NOTIFY.")
@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
def test_workers_are_notified_when_a_job_is_queued_or_cancelled() -> None:
    from container_manager.store.notifications import CHANNEL

    listener = connection.copy()
    try:
        with listener.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        job = queue.enqueue(command="true")
        job.mark_as_cancelled()
        job_in("pending").mark_as_queued()
        heard = list(listener.connection.notifies(timeout=PATIENCE_SECONDS, stop_after=3))
        assert len(heard) == 3
    finally:
        listener.close()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Only PostgreSQL has NOTIFY.")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("many", [False, True])
def test_enqueue_returns_the_committed_job_although_its_notification_fails(
    caplog: pytest.LogCaptureFixture, many: bool
) -> None:
    def end_the_session() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (backend,) = cursor.fetchone()
        another = connection.copy()
        with contextlib.closing(another), another.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, %s)", [backend, PATIENCE_SECONDS * 1000])
            assert cursor.fetchone() == (True,)

    with transaction.atomic():
        # It runs after the commit and before the notification.
        transaction.on_commit(end_the_session)
        job = queue.enqueue_many([ContainerJob(command="true")])[0] if many else queue.enqueue(command="true")
    assert ContainerJob.objects.get() == job
    assert any("were not notified" in message for message in caplog.messages)

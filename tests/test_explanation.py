"""`explain` says of each status and of each reason what is so, on the rows that its real cause leaves."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.models import ContainerJob, FailureReason, JobAttempt, JobStatus, Worker
from container_manager.queue import Explanation, ExplanationCode, endings, explain, explaining, waiting
from container_manager.worker.maintenance import Maintenance

from .bulk_jobs import BulkJobs
from .jobs import THEN, job_in
from .protocol.records import bury, expire_lease, register
from .test_engine_away import DistantExecutor
from .test_protocol import working
from .workers import eventually, worker

_DOCS = "howto/queue.md#see-why-a-job-waits-or-failed"


def explained(job: ContainerJob) -> Explanation:
    """Explain a job as its row is now."""
    return explain(ContainerJob.objects.get(pk=job.pk))


def text_of(found: Explanation) -> str:
    return "\n".join((found.summary, *found.evidence, found.next_step))


def claimed(job: ContainerJob, *, by: str = "w", engine: str = "") -> ContainerJob:
    """Register a worker and have it claim a job."""
    register(by)
    engines = {"default": engine} if engine else {}
    [found] = store.claim(worker=by, executors=["default"], engines=engines, only=job.pk, limit=1, using="default")
    assert found.id == job.pk
    return job


def finished(job: ContainerJob, **outcome: object) -> ContainerJob:
    """Have its worker store the end of a claimed job."""
    end = store.Outcome(job_id=job.pk, attempt=1, **{"status": "failed", **outcome})  # type: ignore[arg-type]
    assert store.finish([end], worker="w", using="default")
    return job


@pytest.mark.without_database
class TestEveryMember:
    def test_each_status_has_an_explanation(self) -> None:
        assert set(explaining._BY_STATUS) == set(JobStatus.values)

    def test_each_failure_reason_has_words_and_a_code(self) -> None:
        assert set(endings.FAILURES) == set(FailureReason.values)
        assert set(FailureReason.values) <= set(ExplanationCode)

    @pytest.mark.parametrize("reason", FailureReason.values)
    def test_the_words_of_each_failure_reason_say_what_happened_and_what_to_do(self, reason: str) -> None:
        job = ContainerJob(command="true", exit_code=7, failure_reason=reason)
        values = endings._values(job, JobAttempt(signal=9))
        summary, next_step = (str(text) % values for text in endings.FAILURES[reason])
        assert summary.endswith(".")
        assert next_step.endswith(".")

    @pytest.mark.shows(_DOCS)
    def test_each_explanation_code_is_in_the_docs(self) -> None:
        page = (Path(__file__).parent.parent / "docs" / "howto" / "queue.md").read_text(encoding="utf-8")
        assert [code for code in ExplanationCode if f"`{code}`" not in page] == []


@pytest.mark.django_db
@pytest.mark.shows(_DOCS)
class TestWhyAJobWaits:
    def test_a_pending_job_is_explained_as_never_queued(self) -> None:
        found = explained(ContainerJob.objects.create_job(command="true", created_by="alice"))
        assert (found.code, found.summary) == ("not_queued", "It was never queued.")
        assert "by alice" in found.evidence[0]
        assert "mark_as_queued()" in found.next_step

    def test_a_paused_queue_is_named_with_who_paused_it_since_when_and_how_to_resume_it(self) -> None:
        job = queue.enqueue(command="true", queue="reports")
        register("w")
        queue.pause_queue("reports", by="alice")
        found = explained(job)
        assert found.code == "queue_paused"
        assert found.summary.startswith("Its queue reports is paused since ")
        assert found.summary.endswith(", by alice.")
        assert found.next_step == "Resume it: 'container queue --resume reports'."

    def test_the_explanation_of_a_scheduled_job_names_its_time_and_further_obstacles(self) -> None:
        later = timezone.now() + timedelta(hours=3)
        job = queue.enqueue(command="true", scheduled_for=later)
        queue.pause_queue("default")
        found = explained(job)
        assert found.code == "scheduled"
        assert later.strftime("%H:%M:%S UTC (in 2 h)") in found.summary
        others = "\n".join(found.evidence)
        assert "Its queue default is paused" in others
        assert "No live worker serves executor default in queue default." in others

    def test_a_job_that_no_live_worker_serves_is_explained_with_what_the_live_workers_serve(self) -> None:
        job = queue.enqueue(command="true", executor="gpu", queue="reports")
        register("dead", executors=("gpu",), lease_seconds=-5.0)
        register("other")
        found = explained(job)
        assert (found.code, found.summary) == ("no_worker", "No live worker serves executor gpu in queue reports.")
        assert "Worker other on h serves executors default, queues all." in found.evidence
        assert "1 worker lives." in found.evidence
        assert "The settings have no executor gpu." in found.evidence
        assert "'container worker --executor gpu --queue reports'" in found.next_step

    def test_a_wait_for_a_free_slot_is_explained_with_the_jobs_that_hold_the_slots(self) -> None:
        for _ in range(2):
            queue.enqueue(command="true")
        register("w")
        Worker.objects.update(slots=2)
        assert len(store.claim(worker="w", executors=["default"], limit=2, using="default")) == 2
        job = queue.enqueue(command="true")
        found = explained(job)
        assert found.code == "slots_taken"
        assert found.summary == "All 2 slots of the workers that serve it are taken."
        assert "Worker w on h: 2 of 2 slots taken." in found.evidence
        assert "0 jobs of its executor and queue are ahead of it." in found.evidence

    def test_jobs_ahead_of_a_waiting_job_are_counted_by_priority_time_and_id(self) -> None:
        register("w")
        first = queue.enqueue(command="true", priority=90)
        same = queue.enqueue_many(ContainerJob(command="true") for _ in range(3))
        low = queue.enqueue(command="true", priority=10)
        queue.enqueue(command="true", priority=100, queue="another")
        in_order = list(ContainerJob.objects.filter(queue="default").ready())
        assert in_order == [first, *sorted(same, key=lambda job: job.pk), low]
        assert [waiting._ahead(job, "default") for job in in_order] == [0, 1, 2, 3, 4]
        assert explained(first).code == "due"
        found = explained(low)
        assert found.code == "behind_others"
        assert "4 jobs of its executor and queue are ahead of it." in found.evidence

    def test_a_job_without_obstacles_is_explained_as_due(self) -> None:
        register("w")
        found = explained(queue.enqueue(command="true"))
        assert (found.code, found.summary[:21]) == ("due", "Nothing holds it up: ")

    def test_the_explanation_of_a_refused_claim_quotes_the_database(self) -> None:
        job = queue.enqueue(command="true")
        register("w")
        store.note_refused_claim(job.pk, "duplicate key", using="default")
        found = explained(job)
        assert found.code == "claim_refused"
        assert "The database said: duplicate key" in found.evidence

    def test_the_explanation_of_a_retry_names_its_time_and_the_failure_before_it(self) -> None:
        job = finished(
            claimed(queue.enqueue(command="false")), exit_code=7, reason="error", message="Exit code 7.",
            retry_after_seconds=3600.0,
        )  # fmt: skip
        found = explained(job)
        assert found.code == "retry_scheduled"
        assert "Its command ended with exit code 7." in found.evidence
        assert "Its last error: Exit code 7." in found.evidence
        assert "Retries so far: 1 of 3." in found.evidence
        ContainerJob.objects.update(scheduled_for=timezone.now() - timedelta(seconds=5))
        assert explained(job).code == "due"
        expire_lease("w")
        assert explained(job).code == "no_worker"


@pytest.mark.django_db
@pytest.mark.shows(_DOCS)
class TestWhatAJobDoes:
    def test_the_explanation_of_a_running_job_names_its_worker_and_its_lease(self) -> None:
        found = explained(claimed(queue.enqueue(command="true", timeout_seconds=600)))
        assert (found.code, found.summary) == ("running", "It runs on h.")
        assert "Worker w (process 1 on h) lives; its lease lasts until " in text_of(found)
        assert "Its timeout is 10 min." in found.evidence

    def test_the_explanation_of_a_launch_names_what_it_waits_for(self) -> None:
        job = claimed(queue.enqueue(command="true"), engine="a daemon")
        assert (explained(job).code, explained(job).summary) == ("launching", "It is being launched.")
        waits = store.Launch(job.pk, 1, waiting_for="the image 'busybox'")
        store.record_launches([waits], worker="w", using="default")
        assert explained(job).summary == "Its launch waits for the image 'busybox'."
        store.record_launches([store.Launch(job.pk, 1, "handle")], worker="w", using="default")
        assert explained(job).code == "running"

    def test_an_expired_lease_and_a_missing_worker_are_explained(self) -> None:
        job = claimed(queue.enqueue(command="true"))
        expire_lease("w")
        assert explained(job).code == "lease_expired"
        register("other")
        bury("other")
        found = explained(job)
        assert found.code == "worker_gone"
        assert "Worker w has no row any more" in text_of(found)
        assert "The next live worker stores that" in found.next_step

    def test_an_attempt_of_an_engine_is_explained_as_waiting_for_a_worker_that_reaches_it(self) -> None:
        job = claimed(queue.enqueue(command="true"), engine="a daemon")
        store.drop_lease("w", using="default")
        assert "A worker that reaches its engine takes it over" in explained(job).next_step

    def test_a_job_that_code_marked_as_running_is_explained_as_without_a_worker(self) -> None:
        job = ContainerJob.objects.create_job(command="true")
        job.mark_as_running(actor="alice")
        found = explained(job)
        assert found.code == "marked_running"
        assert "by alice" in found.summary


@pytest.mark.django_db
@pytest.mark.shows(_DOCS)
class TestHowAJobEnded:
    def test_the_explanation_of_out_of_memory_names_the_limit_and_the_peak(self) -> None:
        job = claimed(queue.enqueue(command="true", memory_bytes=64 * 1024**2, max_retries=0))
        finished(job, reason="oom", peak_memory_bytes=63 * 1024**2)
        found = explained(job)
        assert found.code == "oom"
        limit, peak = "64.0 MiB (67108864 bytes)", "63.0 MiB (66060288 bytes)"
        assert f"Its limit of memory: {limit}; its peak: {peak}." in found.evidence
        assert "It has no retries." in found.evidence

    @pytest.mark.parametrize("reason", ["image", "unavailable", "node_lost", "lost"])
    def test_the_explanation_of_a_system_failure_quotes_its_message(self, reason: str) -> None:
        found = explained(finished(claimed(queue.enqueue(command="true")), reason=reason, message="The word of it."))
        assert found.code == reason
        assert "Its last error: The word of it." in found.evidence

    def test_a_failure_is_explained_with_the_used_retries_or_the_lack_of_a_retry(self) -> None:
        job = finished(claimed(queue.enqueue(command="true")), reason="image")
        assert "The setting RETRY has no retry for the reason image." in explained(job).evidence
        ContainerJob.objects.update(failure_reason="error", retry_count=3)
        assert "All of its retries are used: 3." in explained(job).evidence

    def test_the_explanation_counts_retries_by_the_limits_of_the_executor(self) -> None:
        job = finished(claimed(queue.enqueue(command="true")), reason="error")
        executor = {"BACKEND": "container_manager.executors.process.ProcessExecutor", "LIMITS": {"max_retries": 0}}
        with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"default": executor}}):
            assert "It has no retries." in explained(job).evidence

    def test_a_retrying_or_running_job_is_explained_with_the_retry_limit_of_its_executor(self) -> None:
        executor = {"BACKEND": "container_manager.executors.process.ProcessExecutor", "LIMITS": {"max_retries": 2}}
        with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"default": executor}}):
            job = claimed(queue.enqueue(command="false"))
            assert "This is attempt 1; retries so far: 0 of 2." in explained(job).evidence
            finished(job, exit_code=7, reason="error", retry_after_seconds=3600.0)
            assert "Retries so far: 1 of 2." in explained(job).evidence

    def test_a_job_that_no_worker_served_is_explained_as_unschedulable(self) -> None:
        job = queue.enqueue(command="true", executor="gpu")
        ContainerJob.objects.update(queued_at=THEN)
        settings = AppSettings(unschedulable_after_seconds=600.0)
        Maintenance(settings, using="default").run("maintainer", {}, retries_are_due=False)
        found = explained(job)
        assert found.code == "unschedulable"
        assert "There is no executor 'gpu'" in text_of(found)
        assert "executor gpu and queue default" in found.next_step

    def test_a_failure_without_a_reason_is_explained_as_marked_by_code(self) -> None:
        job = job_in("running")
        job.mark_as_failed(actor="alice", reason="wrong data")
        found = explained(job)
        assert (found.code, found.summary) == ("marked_failed", "It was marked as failed by alice.")
        assert "The reason that was given: wrong data" in found.evidence

    def test_an_unknown_failure_reason_is_explained_without_an_error(self) -> None:
        assert explained(job_in("failed", failure_reason="hail")).code == "marked_failed"

    def test_the_explanation_of_a_cancelled_job_names_actor_reason_and_running_attempts(self) -> None:
        job = claimed(queue.enqueue(command="true"))
        queue.cancel(ContainerJob.objects.get(pk=job.pk), actor="alice", reason="wrong input")
        found = explained(job)
        assert (found.code, found.summary[:29]) == ("cancelling", "It was cancelled by alice. Wh")
        assert "The reason that was given: wrong input" in found.evidence
        assert "Attempt 1 is still open." in found.evidence
        assert "Worker w (process 1 on h) lives" in text_of(found)
        assert f"'container cancel --now {job.pk}'" in found.next_step
        queue.kill([job.pk])
        assert "It is to be killed at once, since " in text_of(explained(job))
        finished(job, status=None)
        found = explained(job)
        assert (found.code, found.summary) == ("cancelled", "It was cancelled by alice.")

    def test_the_explanation_of_a_job_that_code_completed_names_the_actor(self) -> None:
        job = job_in("running")
        job.mark_as_completed(actor="alice")
        assert explained(job).summary == "It was marked as completed by alice."

    def test_text_of_others_cannot_forge_a_line_of_an_explanation(self) -> None:
        job = job_in("failed", last_error="one\ntwo \x1b[31m", failure_reason="error")
        assert "Its last error: one\\ntwo \\x1b[31m" in explained(job).evidence

    def test_a_long_message_is_truncated_in_an_explanation(self) -> None:
        job = job_in("failed", last_error="x" * 5000, failure_reason="error")
        assert max(map(len, explained(job).evidence)) < 1100


@pytest.mark.usual_statements
@pytest.mark.django_db(transaction=True)
@pytest.mark.shows(_DOCS)
def test_real_ends_of_local_processes_are_explained(tmp_path: Path) -> None:
    commands = {
        "completed": "true",
        "error": "sh -c 'exit 7'",
        "signal": "sh -c 'kill -KILL $$'",
        "start": "/no/such/program",
        "timeout": "sleep 600",
    }
    more = {"timeout": {"timeout_seconds": 1, "grace_seconds": 1}}
    jobs = {
        code: queue.enqueue(command=command, max_retries=0, **more.get(code, {})) for code, command in commands.items()
    }
    with worker("--slots", "3", log=tmp_path / "log"):
        eventually(lambda: not ContainerJob.objects.filter(status__in=["queued", "running"]).exists())
        running = queue.enqueue(command="sleep 600", max_retries=0, grace_seconds=1)
        eventually(lambda: explained(running).code == "running")
        queue.cancel(ContainerJob.objects.get(pk=running.pk), actor="alice", reason="enough")
        eventually(lambda: explained(running).code == "cancelled")
    found = {code: explained(job) for code, job in jobs.items()}
    assert {code: str(explanation.code) for code, explanation in found.items()} == {code: code for code in commands}
    assert found["error"].summary == "Its command ended with exit code 7."
    assert found["signal"].summary == "Its command was ended by signal 9 (SIGKILL)."
    assert "No such file" in text_of(found["start"])
    assert "longer than 1 s" in text_of(found["timeout"])
    assert explained(running).summary == "It was cancelled by alice."


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_a_job_whose_worker_was_killed_is_explained_as_lost(tmp_path: Path) -> None:
    job = queue.enqueue(command="sleep 600", max_retries=0)
    with worker(log=tmp_path / "killed"):
        eventually(lambda: explained(job).code == "running")
    # Its process is gone, as the next worker on this host sees.
    expire_lease(ContainerJob.objects.get(pk=job.pk).worker)
    assert explained(job).code == "lease_expired"
    with worker(log=tmp_path / "next", lease_seconds=2.0):
        eventually(lambda: explained(job).code == "lost")


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows(_DOCS)
def test_a_worker_records_since_when_an_engine_does_not_answer_and_that_it_answers_again() -> None:
    executor, job = DistantExecutor(), queue.enqueue(command="true")
    executor.is_away = True
    with working(executor):
        eventually(lambda: explained(job).code == "engine_away")
        found = explained(job)
        assert found.summary == "The engine of executor default does not answer."
        assert f": since {timezone.now():%Y-%m}" in found.evidence[1]
        executor.is_away = False
        eventually(lambda: explained(job).code == "completed")
        eventually(lambda: Worker.objects.get().engines_away == {})


@pytest.mark.django_db
def test_a_running_job_whose_engine_is_away_is_explained_with_how_long_the_worker_waits() -> None:
    job = claimed(queue.enqueue(command="true"), engine="a daemon")
    store.record_engines("w", {"default": "a daemon"}, {"default": 30.0}, using="default")
    found = explained(job)
    assert found.code == "engine_away"
    assert "does not answer since " in found.summary
    assert "After 60 s (UNREACHABLE_SECONDS) the attempt is given up." in found.evidence


@pytest.mark.django_db
@pytest.mark.shows("howto/unique-jobs.md#for-how-long")
@pytest.mark.parametrize(
    ("scope", "status", "said"),
    [
        ({}, "queued", "holds the unique key k until it has finished"),
        ({}, "running", "holds the unique key k until it has finished"),
        ({}, "completed", None),
        ({"unique_until": "started"}, "queued", "holds the unique key k until it has started"),
        ({"unique_until": "started"}, "running", None),
        ({"unique_seconds": 60}, "completed", "Its unique key is k, which it holds until"),
        ({"unique_seconds": 60}, "cancelled", None),
    ],
)
def test_a_unique_key_is_explained_as_long_as_it_is_held(
    scope: dict[str, object], status: str, said: str | None
) -> None:
    text = text_of(explained(job_in(status, unique_key="k", **scope)))
    assert said in text if said else "unique key" not in text


@pytest.mark.django_db
def test_a_task_is_explained_by_its_path() -> None:
    text = text_of(explained(job_in("queued", task="shop.tasks.resize", task_arguments={"args": [], "kwargs": {}})))
    assert "It calls the task shop.tasks.resize." in text


@pytest.mark.django_db
@pytest.mark.parametrize("result", [None, '{"n": 1}'])
def test_the_explanation_of_a_completed_job_says_whether_it_has_a_result(result: str | None) -> None:
    job = finished(claimed(job_in("queued")), status="completed", exit_code=0, result=result)
    assert ("It has left a result." in text_of(explained(job))) is (result is not None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows(_DOCS)
def test_an_explanation_takes_few_statements_each_served_by_an_index() -> None:
    jobs = BulkJobs()
    jobs.add("completed", 10_000)
    jobs.add("queued", 10_000, priority=60)
    jobs.add("queued", 10_000, priority=50)
    jobs.analyze()
    register("w")
    last = ContainerJob.objects.filter(status="queued", priority=50).order_by("-queued_at").first()
    assert last is not None
    first = ContainerJob.objects.ready()[0]
    samples = [last, first, job_in("pending"), job_in("running", worker="w"), job_in("completed"), job_in("cancelled")]
    samples += [job_in("failed", failure_reason="error"), job_in("retrying")]
    for job in samples:
        with CaptureQueriesContext(connection) as queries:
            found = explain(job)
        assert len(queries) <= 7, found
        for query in queries.captured_queries:
            if ContainerJob._meta.db_table in query["sql"] and "EXPLAIN" not in query["sql"]:
                assert_reads_few_jobs(query["sql"])
    assert f"At least {waiting.MOST_AHEAD} jobs of its executor and queue are ahead of it." in explain(last).evidence
    assert waiting._ahead(first, "default") == 0


def assert_reads_few_jobs(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(("EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN ") + sql, None)
        plan = " ".join(str(cell) for row in cursor.fetchall() for cell in row)
    # A range of the index, in its order: the LIMIT ends it, and nothing is read that is thrown away.
    assert "cm_job_claim" in plan, plan
    for sign in ("Seq Scan", "Sort", "Filter", "SCAN container_manager", "TEMP B-TREE", "filesort"):
        assert sign not in plan, plan
    assert connection.vendor != "sqlite" or "queue=? AND priority" in plan, plan

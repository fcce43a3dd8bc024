"""The statements of the store, each alone and concurrently, on every database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from django.db import InterfaceError, InternalError, OperationalError, connection, connections, transaction
from django.test import override_settings
from django.utils import timezone

from container_manager import queue, store
from container_manager.jobs.spec import CLAIMED_FIELDS, JobSpec
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.statemachine import StaleTransition
from container_manager.store.values import JOB_COLUMNS

from .jobs import journal_of, row_of
from .polling import PATIENCE_SECONDS, eventually
from .protocol.records import expire_lease, records_of, register, rescue, seconds_since

pytestmark = pytest.mark.django_db
concurrent = pytest.mark.django_db(transaction=True)

_RACES = 500
_HOUR = timedelta(hours=1)


def claim(worker: str = "w", *, limit: int = 10, executors: Sequence[str] = ("default",), **options: Any) -> list[Any]:
    """Claim jobs; return their ids, in order."""
    claimed = store.claim(worker=worker, executors=executors, limit=limit, using="default", **options)
    return [job.id for job in claimed]


def running(worker: str = "w", *, engines: dict[str, str] | None = None, **fields: Any) -> ContainerJob:
    """Return a running job in its first attempt."""
    job = queue.enqueue(command="true", **fields)
    assert claim(worker, only=job.pk, executors=[job.executor], engines=engines) == [job.pk]
    job.refresh_from_db()
    return job


def outcome(job: ContainerJob, *, status: str | None = "completed", attempt: int = 1, **values: Any) -> store.Outcome:
    return store.Outcome(job_id=job.pk, attempt=attempt, status=status, **values)


def finish(*outcomes: store.Outcome, worker: str = "w") -> set[Any]:
    return store.finish(outcomes, worker=worker, using="default")


def append(job: ContainerJob, *texts: bytes, attempt: int = 1, worker: str = "w") -> None:
    entries = [store.LogEntry(sequence=number, stream="stdout", data=text) for number, text in enumerate(texts)]
    change = store.LogChange(job_id=job.pk, attempt=attempt, entries=entries)
    store.store_logs([change], worker=worker, using="default")


def together(*works: Callable[[], Any], barrier: Barrier | None = None) -> list[Any]:
    """Run each in a thread with a connection of its own and return the results; if one fails, the others do not wait."""

    def run(work: Callable[[], Any]) -> Any:
        try:
            return in_thread(work)()
        except BaseException:
            if barrier is not None:
                barrier.abort()
            raise

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(run, work) for work in works]
    for error in (future.exception() for future in futures):
        if error is not None and not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return work that closes its thread's connection."""

    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    return run


@pytest.fixture
def strange_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process believe that it is a day later than the database does."""
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(days=1))


def test_a_claimed_job_has_the_columns_in_their_order() -> None:
    assert (*store.ClaimedJob._fields[:3], *CLAIMED_FIELDS) == JOB_COLUMNS


class TestClaiming:
    def test_the_highest_priority_is_first_then_the_longest_queued(self) -> None:
        middle, low, high, late_high = (queue.enqueue(command="true", priority=p) for p in (50, 0, 100, 100))
        early_high = queue.enqueue(command="true", priority=100)
        ContainerJob.objects.filter(pk=early_high.pk).update(queued_at=timezone.now() - _HOUR)
        assert claim(limit=2) == [early_high.pk, high.pk]
        assert claim(limit=9) == [late_high.pk, middle.pk, low.pk]

    def test_jobs_queued_at_the_same_time_are_claimed_by_id(self) -> None:
        jobs = queue.enqueue_many([ContainerJob(command="true") for _ in range(5)])
        assert claim() == sorted(job.pk for job in jobs)

    def test_no_job_is_claimed_before_it_is_scheduled(self) -> None:
        now = timezone.now()
        queue.enqueue(command="true", scheduled_for=now + _HOUR)
        due = queue.enqueue(command="true", scheduled_for=now - _HOUR)
        assert claim() == [due.pk]

    def test_the_schedule_is_compared_with_the_databases_clock(self, strange_clock: None) -> None:
        later = queue.enqueue(command="true", scheduled_for=timezone.now() - _HOUR)
        assert claim() == []
        ContainerJob.objects.filter(pk=later.pk).update(scheduled_for=timezone.now() - timedelta(days=1, hours=1))
        assert claim() == [later.pk]
        later.refresh_from_db()
        assert 0 <= seconds_since(later, "launched_at") < PATIENCE_SECONDS

    @pytest.mark.parametrize("status", ["pending", "cancelled"])
    def test_only_queued_jobs_are_claimed(self, status: str) -> None:
        job = ContainerJob.objects.create_job(command="true")
        if status == "cancelled":
            job.mark_as_cancelled()
        running()
        assert claim() == []

    def test_only_jobs_of_the_given_queues_are_claimed(self) -> None:
        a, b, c = (queue.enqueue(command="true", queue=name) for name in "abc")
        assert claim(queues=["b"]) == [b.pk]
        assert claim(queues=["a", "b", "none"]) == [a.pk]
        assert claim(queues=None) == [c.pk]

    def test_only_jobs_of_the_given_executors_are_claimed(self) -> None:
        docker = queue.enqueue(command="true", executor="docker")
        default = queue.enqueue(command="true")
        assert claim() == [default.pk]
        assert claim(executors=["kubernetes"]) == []
        assert claim(executors=["kubernetes", "docker"]) == [docker.pk]

    def test_without_queues_or_executors_nothing_is_claimed(self) -> None:
        queue.enqueue(command="true")
        assert claim(executors=[]) == []
        assert claim(queues=[]) == []

    def test_no_more_jobs_than_the_limit_are_claimed(self) -> None:
        jobs = [queue.enqueue(command="true").pk for _ in range(5)]
        assert claim(limit=2) == jobs[:2]
        assert claim(limit=2) == jobs[2:4]
        assert claim(limit=2) == jobs[4:]
        assert claim(limit=2) == []

    def test_a_claim_inserts_the_attempt(self) -> None:
        job = running("first", max_retries=5)
        (attempt,) = JobAttempt.objects.all()
        assert (attempt.job_id, attempt.number, attempt.worker, attempt.executor) == (job.pk, 1, "first", "default")
        assert (attempt.finished_at, attempt.launched_at) == (None, job.launched_at)
        assert (job.status, job.worker, job.attempt) == ("running", "first", 1)
        assert (job.status_changed_by, journal_of(job)) == ("first", [("queued", "running")])

    def test_the_next_attempt_has_the_next_number_and_no_result_of_the_previous_one(self) -> None:
        job = running("first")
        finish(
            outcome(job, status="failed", exit_code=3, reason="error", message="no", retry_after_seconds=-1.0),
            worker="first",
        )
        assert store.promote_retries(using="default") == 1
        (again,) = store.claim(worker="second", executors=["default"], limit=1, using="default")
        assert (again.id, again.attempt, again.retry_count) == (job.pk, 2, 1)
        job.refresh_from_db()
        assert (job.exit_code, job.failure_reason, job.last_error, job.worker) == (None, "", "", "second")
        assert [(a.number, a.worker) for a in job.attempts.order_by("number")] == [(1, "first"), (2, "second")]

    @override_settings(CONTAINER_MANAGER={"SECRETS": {"env:CM_SECRET_S": "", "file:key": ""}})
    def test_a_claim_returns_every_field_of_the_job(self) -> None:
        asked = {
            "image": "debian", "command": "echo 'a b'", "environment": {"A": "ä"}, "secrets": {"S": "env:CM_SECRET_S"},
            "secret_files": {"key": "file:key"},
            "working_directory": "/srv", "memory_bytes": 2**40, "cpu_count": 0.5, "timeout_seconds": 7,
            "grace_seconds": 3, "max_retries": 2, "labels": {"l": "1"}, "executor": "default",
        }  # fmt: skip
        job = queue.enqueue(**asked)
        (claimed,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
        assert claimed.spec == JobSpec(**asked)
        assert (claimed.id, claimed.attempt, claimed.retry_count, claimed.elapsed_seconds) == (job.pk, 1, 0, 0.0)

    @concurrent
    def test_two_workers_never_claim_the_same_job(self) -> None:
        jobs = {job.pk for job in queue.enqueue_many([ContainerJob(command="true") for _ in range(_RACES)])}
        barrier = Barrier(2, timeout=PATIENCE_SECONDS)

        def claimer(worker: str) -> Callable[[], list[Any]]:
            def work() -> list[Any]:
                taken: list[Any] = []
                for _ in range(_RACES // 10):
                    barrier.wait()
                    taken += claim(worker, limit=5)
                return taken

            return work

        first, second = together(claimer("first"), claimer("second"), barrier=barrier)
        assert min(len(first), len(second)) > 0
        # Some are left if one skipped rows that the other had locked.
        first += claim("first", limit=_RACES)
        assert len(first) + len(second) == len(jobs)
        assert {*first, *second} == jobs
        rows = JobAttempt.objects.values_list("job", "number", "worker")
        assert sorted(rows) == sorted([*((k, 1, "first") for k in first), *((k, 1, "second") for k in second)])
        assert ContainerJob.objects.filter(status="running", attempt=1).count() == len(jobs)

    @concurrent
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time")
    def test_a_claim_skips_jobs_that_another_worker_is_claiming(self) -> None:
        first, second = (queue.enqueue(command="true").pk for _ in range(2))

        # If the second claim waited, the transaction would end before the pool.
        with ThreadPoolExecutor(1) as pool, transaction.atomic():
            assert claim("first", limit=1) == [first]
            second_claim = pool.submit(in_thread(lambda: claim("second", limit=1)))
            assert second_claim.result(timeout=PATIENCE_SECONDS / 4) == [second]


class TestFinishing:
    def test_a_success_is_stored_in_the_job_and_its_attempt(self) -> None:
        job = running()
        done = outcome(job, exit_code=0, peak_memory_bytes=2**40, cpu_seconds=1.5)
        assert finish(done) == {(job.pk, 1)}
        job.refresh_from_db()
        assert (job.status, job.exit_code, job.worker) == ("completed", 0, "")
        assert (job.status_changed_by, journal_of(job)[-1]) == ("w", ("running", "completed"))
        attempt = job.attempts.get()
        assert (attempt.exit_code, attempt.peak_memory_bytes, attempt.cpu_seconds) == (0, 2**40, 1.5)
        assert attempt.finished_at >= job.completed_at >= job.launched_at

    def test_a_failure_is_stored_with_its_reason(self) -> None:
        job = running()
        finish(outcome(job, status="failed", signal=9, reason="signal", message="Killed — ünwillig."))
        job.refresh_from_db()
        assert (job.status, job.exit_code, job.failure_reason) == ("failed", None, "signal")
        assert (job.last_error, job.retry_count, job.scheduled_for) == ("Killed — ünwillig.", 0, None)
        attempt = job.attempts.get()
        assert (attempt.signal, attempt.reason, attempt.message) == (9, "signal", job.last_error)

    def test_a_finish_by_another_worker_is_refused(self) -> None:
        job = running("w")
        before = records_of(job)
        assert finish(outcome(job), worker="thief") == set()
        assert finish(outcome(job, status=None), worker="thief") == set()
        assert records_of(job) == before

    @pytest.mark.parametrize("status", ["completed", "failed", None])
    def test_a_finish_is_refused_when_the_job_names_another_worker(self, status: str | None) -> None:
        job = running("w")
        ContainerJob.objects.filter(pk=job.pk).update(worker="other")
        before = records_of(job)
        assert finish(outcome(job, status=status)) == set()
        assert records_of(job) == before

    @pytest.mark.parametrize("status", ["completed", "failed", None])
    def test_a_finish_of_another_attempt_of_the_same_worker_is_refused(self, status: str | None) -> None:
        job = running()
        finish(outcome(job, status="failed", reason="lost", retry_after_seconds=-1.0))
        store.promote_retries(using="default")
        assert claim() == [job.pk]
        before = records_of(job)
        assert finish(outcome(job, status=status, attempt=1, exit_code=0)) == set()
        assert finish(outcome(job, status=status, attempt=3, exit_code=0)) == set()
        assert records_of(job) == before

    @pytest.mark.parametrize("status", ["completed", "failed", None])
    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_a_second_finish_changes_nothing(self, status: str | None) -> None:
        job = running()
        assert finish(outcome(job, exit_code=0)) == {(job.pk, 1)}
        before = records_of(job)
        assert finish(outcome(job, status=status, exit_code=7, retry_after_seconds=0.0)) == set()
        assert records_of(job) == before

    @pytest.mark.parametrize("status", ["completed", "failed", None])
    def test_a_finish_of_a_cancelled_job_closes_only_its_attempt(self, status: str | None) -> None:
        job = running()
        job.mark_as_cancelled(actor="alice")
        before = records_of(job)
        retry = 0.0 if status == "failed" else None
        assert finish(outcome(job, status=status, signal=15, retry_after_seconds=retry)) == {(job.pk, 1)}
        after = records_of(job)
        assert (after["job"], after["journal"]) == (before["job"], before["journal"])
        attempt = job.attempts.get()
        assert attempt.finished_at is not None
        assert attempt.signal == 15

    def test_a_finish_of_a_job_that_raw_sql_has_cancelled_closes_only_its_attempt(self) -> None:
        """Raw SQL need not clear the worker's name."""
        job = running()
        with connection.cursor() as cursor:
            key = ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)
            cursor.execute("UPDATE container_manager_containerjob SET status = 'cancelled' WHERE id = %s", [key])
        assert finish(outcome(job)) == {(job.pk, 1)}
        assert (row_of(job)["status"], row_of(job)["worker"]) == ("cancelled", "w")

    @pytest.mark.parametrize("status", ["completed", None])
    def test_a_finish_does_not_close_the_attempt_of_a_cancelled_job_that_another_worker_has_rescued(
        self, status: str | None
    ) -> None:
        register("w")
        register("rescuer")
        job = running("w")
        job.mark_as_cancelled()
        expire_lease("w")
        assert rescue("rescuer") == 1
        before = records_of(job)
        assert finish(outcome(job, status=status)) == set()
        assert records_of(job) == before
        assert finish(outcome(job, status=None), worker="rescuer") == {(job.pk, 1)}

    def test_an_attempt_of_a_running_job_is_not_closed_without_the_job(self) -> None:
        job = running()
        before = records_of(job)
        assert finish(outcome(job, status=None)) == set()
        assert records_of(job) == before

    def test_a_retry_is_due_by_the_databases_clock(self, strange_clock: None) -> None:
        job = running()
        finish(outcome(job, status="failed", reason="error", message="no", retry_after_seconds=1000.0))
        job.refresh_from_db()
        assert (job.status, job.retry_count, job.worker, job.failure_reason) == ("retrying", 1, "", "error")
        assert journal_of(job)[-2:] == [("running", "failed"), ("failed", "retrying")]
        assert -1001 < seconds_since(job, "scheduled_for") < PATIENCE_SECONDS - 1000
        assert 0 <= seconds_since(job.attempts.get(), "finished_at") < PATIENCE_SECONDS

    def test_each_outcome_of_a_batch_is_stored_for_its_own_job(self) -> None:
        done, failed, again, cancelled, foreign = (running(w) for w in ("w", "w", "w", "w", "other"))
        cancelled.mark_as_cancelled()
        closed = finish(
            outcome(foreign),
            outcome(cancelled, signal=9),
            outcome(again, status="failed", reason="lost", retry_after_seconds=60.0),
            outcome(failed, status="failed", exit_code=1, reason="error"),
            outcome(done, exit_code=0),
        )
        assert closed == {(job.pk, 1) for job in (done, failed, again, cancelled)}
        jobs = (done, failed, again, cancelled, foreign)
        assert [row_of(j)["status"] for j in jobs] == ["completed", "failed", "retrying", "cancelled", "running"]
        assert [row_of(j)["exit_code"] for j in jobs] == [0, 1, None, None, None]
        assert [j.attempts.get().signal for j in jobs] == [None, None, None, 9, None]

    def test_an_empty_batch_finishes_nothing(self) -> None:
        assert finish() == set()


class TestOwning:
    def test_a_worker_owns_its_open_attempts(self) -> None:
        mine, cancelled = running("w"), running("w")
        finish(outcome(running("w")))
        running("other")
        cancelled.mark_as_cancelled()
        owned = {o.job.id: (o.job.attempt, o.status) for o in store.owned_attempts(worker="w", using="default")}
        assert owned == {mine.pk: (1, "running"), cancelled.pk: (1, "cancelled")}

    def test_an_earlier_attempt_of_a_running_job_is_not_reported_as_running(self) -> None:
        job = running("w")
        job.mark_as_failed(should_retry=True, actor="alice")
        job.mark_as_queued(actor="alice")
        assert claim("other") == [job.pk]
        (owned,) = store.owned_attempts(worker="w", using="default")
        assert (owned.job.attempt, owned.status) == (1, "")
        assert finish(outcome(job, status="completed")) == {(job.pk, 1)}
        assert row_of(job)["status"] == "running"

    def test_the_wait_before_an_attempts_start_is_not_part_of_its_age(self) -> None:
        job = running("w")
        launched_at = store.database_now(using="default") - timedelta(seconds=600)
        JobAttempt.objects.filter(job=job).update(launched_at=launched_at)
        store.record_launches([store.Launch(job.pk, 1, "h", waited_seconds=590.0)], worker="w", using="default")
        (owned,) = store.owned_attempts(worker="w", using="default")
        # SQLite subtracts days in floating point, which are exact to about 0.04 ms.
        assert 10 <= round(owned.job.elapsed_seconds, 3) < 300

    def test_only_the_owner_of_an_open_attempt_stores_its_handle(self) -> None:
        first, second = running("w"), running("w")

        def record(handle: str, worker: str) -> list[str]:
            handles = [store.Launch(job.pk, 1, f"{handle} {number}") for number, job in enumerate((first, second))]
            store.record_launches(handles, worker=worker, using="default")
            return list(JobAttempt.objects.order_by("job").values_list("handle", flat=True))

        assert record("mine", "w") == ["mine 0", "mine 1"]
        assert record("theirs", "thief") == ["mine 0", "mine 1"]
        finish(outcome(first))
        assert record("late", "w") == ["mine 0", "late 1"]


class TestLogs:
    def test_output_that_a_later_change_of_the_same_batch_drops_is_not_stored(self) -> None:
        """A job that prints a lot and ends soon has both in one batch."""
        job = running("w")
        entry = store.LogEntry
        first = store.LogChange(
            job_id=job.pk,
            attempt=1,
            entries=[entry(sequence=number, stream="stdout", data=b"old ") for number in range(3)],
        )
        note = entry(sequence=1, stream="system", data=b"[dropped] ")
        last = store.LogChange(
            job_id=job.pk, attempt=1, entries=[note, entry(sequence=3, stream="stdout", data=b"new")], gone=(1, 3)
        )
        for _ in range(2):
            store.store_logs([first, last], worker="w", using="default")
            assert job.output() == b"old [dropped] new"

    def test_output_is_stored_in_order_and_byte_for_byte(self) -> None:
        job = running()
        texts = [b"first\n", b"\x00\xff\xfe", b"", b"'; DROP TABLE --%s\n"]
        append(job, *texts)
        assert [row["data"] for row in records_of(job)["logs"]] == texts

    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_output_that_is_sent_twice_is_stored_once(self) -> None:
        job = running()
        append(job, b"a", b"b")
        before = records_of(job)
        append(job, b"a", b"b")
        assert records_of(job) == before
        append(job, b"a", b"b", b"c")
        assert [row["data"] for row in records_of(job)["logs"]] == [b"a", b"b", b"c"]

    def test_output_of_another_worker_is_dropped(self) -> None:
        job = running("w")
        append(job, b"foreign", worker="thief")
        assert records_of(job)["logs"] == []

    def test_output_of_a_closed_attempt_is_dropped(self) -> None:
        job = running()
        finish(outcome(job))
        append(job, b"late")
        assert records_of(job)["logs"] == []

    def test_output_of_an_unknown_attempt_is_dropped(self) -> None:
        job = running()
        append(job, b"too soon", attempt=2)
        assert records_of(job)["logs"] == []

    def test_output_of_a_cancelled_job_is_stored_while_its_attempt_is_open(self) -> None:
        job = running()
        job.mark_as_cancelled()
        append(job, b"stopping\n")
        assert [row["data"] for row in records_of(job)["logs"]] == [b"stopping\n"]


class TestRescuing:
    @pytest.fixture(autouse=True)
    def _living(self) -> None:
        register("living")
        register("rescuer")

    @pytest.mark.parametrize("death", ["lease", "row"])
    def test_the_attempts_of_an_expired_worker_are_rescued(self, death: str) -> None:
        register("dead")
        job = running("dead")
        assert rescue("rescuer") == 0
        if death == "lease":
            expire_lease("dead")
        else:
            store.drop_lease("dead", using="default")
        before = records_of(job)
        assert rescue("rescuer") == 1
        after = records_of(job)
        assert (after["job"][0].pop("worker"), after["attempts"][0].pop("worker")) == ("rescuer", "rescuer")
        assert (before["job"][0].pop("worker"), before["attempts"][0].pop("worker")) == ("dead", "dead")
        assert after == before
        assert rescue("rescuer") == 0
        assert finish(outcome(job), worker="dead") == set()
        assert finish(outcome(job), worker="rescuer") == {(job.pk, 1)}

    def test_the_attempts_of_a_live_worker_are_not_rescued(self) -> None:
        job = running("living")
        before = records_of(job)
        assert rescue("rescuer") == 0
        assert records_of(job) == before

    def test_a_rescue_leaves_jobs_without_an_open_attempt_alone(self) -> None:
        jobs = [running("dead") for _ in range(3)]
        finish(outcome(jobs[0]), worker="dead")
        finish(outcome(jobs[1], status="failed", reason="error"), worker="dead")
        finish(outcome(jobs[2], status="failed", reason="error", retry_after_seconds=60.0), worker="dead")
        started_by_hand = ContainerJob.objects.create_job(command="true")
        started_by_hand.mark_as_running()
        before = [records_of(job) for job in (*jobs, started_by_hand)]
        assert rescue("rescuer") == 0
        assert [records_of(job) for job in (*jobs, started_by_hand)] == before

    def test_the_open_attempt_of_a_cancelled_job_is_rescued_too(self) -> None:
        job = running("dead")
        job.mark_as_cancelled()
        before = records_of(job)
        assert rescue("rescuer") == 1
        after = records_of(job)
        assert (after["job"], after["journal"]) == (before["job"], before["journal"])
        assert [o.status for o in store.owned_attempts(worker="rescuer", using="default")] == ["cancelled"]

    @pytest.mark.shows("explanation/worker.md#the-worker-that-maintains-dies", "howto/docker.md#use-several-daemons")
    def test_a_rescue_takes_attempts_on_engines_that_it_reaches_and_attempts_that_died_with_their_worker(self) -> None:
        jobs = {}
        for name, executor, engine in (
            ("process", "elsewhere", ""),
            ("here", "docker", "host a"),
            ("alias", "docker", "host b"),
            ("gpu", "gpu", "host a"),
        ):
            jobs[name] = running("dead", executor=executor, engines={executor: engine} if engine else {})
        assert rescue("rescuer", docker="host a") == 2
        holders = {name: row_of(job)["worker"] for name, job in jobs.items()}
        assert holders == {"process": "rescuer", "here": "rescuer", "alias": "dead", "gpu": "dead"}
        left = store.unowned_attempts(worker="rescuer", engines={"docker": "host a"}, using="default")
        assert {attempt.key for attempt in left} == {(jobs["alias"].pk, 1), (jobs["gpu"].pk, 1)}
        assert rescue("living", docker="host b", gpu="host a") == 2

    def test_an_attempt_that_another_worker_has_rescued_is_not_taken_over(self) -> None:
        job, other = (running("dead", executor="docker", engines={"docker": "host b"}) for _ in range(2))
        left = store.unowned_attempts(worker="rescuer", engines={}, using="default")
        assert store.take_over([one for one in left if one.key == (job.pk, 1)], worker="living", using="default") == 1
        assert store.take_over(left, worker="rescuer", using="default") == 1
        assert (row_of(job)["worker"], row_of(other)["worker"]) == ("living", "rescuer")

    @concurrent
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time")
    def test_a_job_claimed_during_a_rescue_is_rescued_with_its_attempt_or_not_at_all(self) -> None:
        """If one worker had the job and another its attempt, neither could finish it."""
        register("dead", lease_seconds=-1.0)
        early, late = running("dead"), queue.enqueue(command="true")

        def intrude(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE container_manager_jobattempt"):
                together(lambda: claim("dead"))
            return execute(sql, *args)

        with connection.execute_wrapper(intrude):
            assert rescue("rescuer") == 1
        assert row_of(late)["status"] == "running"
        for job in (early, late):
            assert row_of(job)["worker"] == job.attempts.get().worker
        assert rescue("rescuer") == 1
        assert set(JobAttempt.objects.values_list("worker", flat=True)) == {"rescuer"}

    def test_a_worker_whose_lease_was_revoked_cannot_renew_it(self) -> None:
        register("zombie")
        job = running("zombie")
        expire_lease("zombie")
        assert rescue("rescuer") == 1
        before = records_of(job)
        assert not store.renew_lease("zombie", lease_seconds=60.0, using="default")
        assert not Worker.objects.filter(pk="zombie").exists()
        assert records_of(job) == before

    def test_a_worker_does_not_rescue_its_own_attempts(self) -> None:
        job = running("rescuer")
        expire_lease("rescuer")
        assert rescue("rescuer") == 0
        assert row_of(job)["worker"] == "rescuer"
        assert store.renew_lease("rescuer", lease_seconds=60.0, using="default")

    @concurrent
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time")
    @pytest.mark.parametrize("asleep_in", ["finish", "claim", "rescue", "promote", "logs", "cancel"])
    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_no_worker_waits_for_an_idle_transaction_of_another(self, asleep_in: str) -> None:
        locked, free, again = (running("zombie") for _ in range(3))
        running("gone")
        finish(outcome(again, status="failed", reason="error", retry_after_seconds=-1.0), worker="zombie")
        again.refresh_from_db()
        register("zombie")
        first, second = (queue.enqueue(command="true").pk for _ in range(2))

        def go_on() -> tuple[int, list[Any], int]:
            register("heir")
            assert store.renew_lease("heir", lease_seconds=60.0, using="default")
            expire_lease("zombie")
            return rescue("heir"), claim("heir", limit=1), store.promote_retries(using="default")

        with ThreadPoolExecutor(1) as pool, transaction.atomic():
            {
                "logs": lambda: append(locked, b"last words", worker="zombie"),
                "finish": lambda: finish(outcome(locked), worker="zombie"),
                "claim": lambda: claim("zombie", limit=1),
                "rescue": lambda: rescue("zombie"),
                "promote": lambda: store.promote_retries(using="default"),
                "cancel": lambda: (locked.mark_as_cancelled(), again.mark_as_cancelled()),
            }[asleep_in]()
            rescued, claimed, promoted = pool.submit(in_thread(go_on)).result(timeout=PATIENCE_SECONDS / 4)
            transaction.set_rollback(True)
        assert row_of(free)["worker"] == "heir"
        assert claimed == [second if asleep_in == "claim" else first]
        assert promoted == (0 if asleep_in in ("promote", "cancel") else 1)
        assert store.promote_retries(using="default") == 1 - promoted
        assert rescue("heir") == 3 - rescued
        assert set(JobAttempt.objects.filter(finished_at=None).values_list("worker", flat=True)) == {"heir"}

    @concurrent
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite lets one transaction write at a time")
    @pytest.mark.parametrize("event", ["another rescues", "it finishes after all", "it is cancelled"])
    def test_an_attempt_that_changes_during_a_rescue_is_left_alone(self, event: str) -> None:
        job = running("gone")

        def intrude(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.startswith("SELECT id FROM container_manager_containerjob WHERE id IN"):
                act: dict[str, Callable[[], object]] = {
                    "another rescues": lambda: rescue("living"),
                    "it finishes after all": lambda: finish(outcome(job), worker="gone"),
                    "it is cancelled": job.mark_as_cancelled,
                }
                together(act[event])
            return execute(sql, *args)

        with connection.execute_wrapper(intrude):
            assert rescue("rescuer") == (1 if event == "it is cancelled" else 0)
        found = (row_of(job)["status"], row_of(job)["worker"], job.attempts.get().worker)
        assert (
            found
            == {
                "another rescues": ("running", "living", "living"),
                "it finishes after all": ("completed", "", "gone"),
                "it is cancelled": ("cancelled", "", "rescuer"),
            }[event]
        )

    @concurrent
    def test_a_lease_that_is_renewed_during_a_rescue_is_not_revoked(self) -> None:
        register("late", lease_seconds=-1.0)
        job = running("late")

        def intrude(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.startswith("DELETE FROM container_manager_worker"):
                together(lambda: store.renew_lease("late", lease_seconds=60.0, using="default"))
            return execute(sql, *args)

        with connection.execute_wrapper(intrude):
            assert rescue("rescuer") == 0
        assert "late" in store.live_workers(using="default")
        assert row_of(job)["worker"] == "late"

    @concurrent
    def test_two_workers_never_rescue_the_same_attempt(self) -> None:
        rounds, each = 40, 5
        barrier = Barrier(2, timeout=PATIENCE_SECONDS)

        def rescuer(worker: str) -> Callable[[], list[int]]:
            def work() -> list[int]:
                taken = []
                for _ in range(rounds):
                    if barrier.wait() == 0:
                        running_batch(each, "gone")
                    barrier.wait()
                    taken.append(rescue(worker))
                return taken

            return work

        first, second = together(rescuer("living"), rescuer("rescuer"), barrier=barrier)
        # Rows that the other had locked were skipped.
        second.append(rescue("rescuer"))
        assert sum(first) + sum(second) == each * rounds
        for worker, taken in (("living", first), ("rescuer", second)):
            assert ContainerJob.objects.filter(worker=worker).count() == sum(taken)
            assert JobAttempt.objects.filter(worker=worker).count() == sum(taken)


def running_batch(count: int, worker: str) -> None:
    queue.enqueue_many([ContainerJob(command="true") for _ in range(count)])
    assert len(claim(worker, limit=count)) == count


class TestRetrying:
    def test_a_pending_job_is_not_queued_as_a_retry(self) -> None:
        job = ContainerJob.objects.create_job(command="true")
        assert store.promote_retries(using="default") == 0
        assert row_of(job)["status"] == "pending"

    def test_only_retries_that_are_due_are_queued(self) -> None:
        due, later, failed = running(), running(), running()
        finish(
            outcome(due, status="failed", reason="error", retry_after_seconds=-1.0),
            outcome(later, status="failed", reason="error", retry_after_seconds=60.0),
            outcome(failed, status="failed", reason="error"),
        )
        assert store.promote_retries(using="default") == 1
        assert [row_of(job)["status"] for job in (due, later, failed)] == ["queued", "retrying", "failed"]
        assert journal_of(due)[-1] == ("retrying", "queued")
        assert row_of(due)["launched_at"] is None
        assert store.promote_retries(using="default") == 0

    @concurrent
    def test_two_workers_queue_each_due_retry_once(self) -> None:
        jobs = [running() for _ in range(100)]
        finish(*(outcome(job, status="failed", reason="error", retry_after_seconds=-1.0) for job in jobs))
        barrier = Barrier(2, timeout=PATIENCE_SECONDS)

        def promote() -> int:
            barrier.wait()
            return store.promote_retries(using="default")

        assert sum(together(promote, promote, barrier=barrier)) == len(jobs)
        assert all(journal_of(job).count(("retrying", "queued")) == 1 for job in jobs)


class TestLeases:
    @pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
    def test_a_lease_runs_on_the_databases_clock(self, strange_clock: None) -> None:
        register("w", lease_seconds=1000.0)
        assert -1001 < seconds_since(Worker.objects.get(), "lease_expires_at") < PATIENCE_SECONDS - 1000
        assert store.live_workers(using="default") == ["w"]
        expire_lease("w")
        assert store.live_workers(using="default") == []
        assert store.renew_lease("w", lease_seconds=0.5, using="default")
        assert -1 < seconds_since(Worker.objects.get(), "lease_expires_at") < PATIENCE_SECONDS

    @pytest.mark.shows("explanation/worker.md#the-worker-that-maintains-dies")
    def test_the_oldest_live_worker_does_the_maintenance(self) -> None:
        register("first")
        register("second")

        def maintainers() -> list[str]:
            return [
                worker
                for worker in ("first", "second")
                if store.look(worker=worker, executors=["default"], queues=None, using="default").maintains
            ]

        assert maintainers() == ["first"]
        expire_lease("first")
        assert maintainers() == ["second"]
        store.drop_lease("second", using="default")
        assert maintainers() == []

    def test_a_worker_without_a_row_has_no_lease_to_renew(self) -> None:
        register("w")
        store.drop_lease("w", using="default")
        assert not store.renew_lease("w", lease_seconds=60.0, using="default")
        assert store.live_workers(using="default") == []

    @concurrent
    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite's lock ends with the process that has it")
    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_an_idle_transaction_of_a_worker_is_rolled_back(self) -> None:
        register("rescuer")
        job = running("frozen")

        def take() -> None:
            eventually(lambda: rescue("rescuer"))

        with pytest.raises((OperationalError, InterfaceError, InternalError)), transaction.atomic():  # noqa: PT012
            assert finish(outcome(job), worker="frozen") == {(job.pk, 1)}
            # From now on no statement of this process has to come in time, nor one of those that prepare the session.
            try:
                store.prepare_session(lease_seconds=3.0, using="default")
            finally:
                together(take)
            ContainerJob.objects.exists()
        connection.close()
        assert (row_of(job)["status"], row_of(job)["worker"]) == ("running", "rescuer")


class TestCancelling:
    @concurrent
    @pytest.mark.parametrize("races", [100, pytest.param(500, marks=pytest.mark.slow)])
    @pytest.mark.shows("explanation/worker.md#a-job-is-cancelled")
    def test_either_a_concurrent_cancel_or_finish_wins(self, races: int) -> None:
        """Races for one job each: never completed after cancelled, and the attempt is closed at the end.

        Whoever won starts a little later the next time, so that the races stay close on any machine.
        """
        running_batch(races, "w")
        jobs = list(ContainerJob.objects.order_by("pk"))
        barrier = Barrier(2, timeout=PATIENCE_SECONDS)
        lead = 0

        def wait(queries: int) -> None:
            barrier.wait()
            for _ in range(queries):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")

        def cancel() -> list[bool]:
            nonlocal lead
            won = []
            for job in jobs:
                wait(lead)
                try:
                    job.mark_as_cancelled(actor="alice")
                except StaleTransition:
                    won.append(False)
                else:
                    won.append(True)
                lead += 1 if won[-1] else -1
            return won

        def end() -> None:
            for job in jobs:
                wait(-lead)
                # As a worker does: an outcome that is missing in the answer is sent again. PostgreSQL skips a row that
                # the cancel has locked for 0.1 s: then that is not committed yet.
                while not finish(outcome(job, exit_code=0)):
                    eventually(lambda job=job: row_of(job)["status"] == "cancelled")

        cancelled, _ = together(cancel, end, barrier=barrier)
        for job, was_cancelled in zip(jobs, cancelled, strict=True):
            status = "cancelled" if was_cancelled else "completed"
            assert row_of(job)["status"] == status
            assert journal_of(job) == [("queued", "running"), ("running", status)]
        assert 0 < sum(cancelled) < races
        assert not JobAttempt.objects.filter(finished_at=None).exists()

    @concurrent
    @pytest.mark.parametrize("what", ["claim", "finish with a retry", "promote", "rescue"])
    def test_a_cancel_concurrent_with_a_worker_causes_no_deadlock(self, what: str) -> None:
        """InnoDB locks the index records it reads: statements that do not find rows by key lock them in another order."""
        count = 100
        register("w")
        register("rescuer")
        queue.enqueue_many([ContainerJob(command="true") for _ in range(count)])
        if what != "claim":
            claim("gone" if what == "rescue" else "w", limit=count)
        jobs = list(ContainerJob.objects.order_by("pk"))
        failed = [outcome(job, status="failed", reason="error", retry_after_seconds=-1.0) for job in jobs]
        if what == "promote":
            finish(*failed)
            jobs = list(ContainerJob.objects.order_by("pk"))
        barrier = Barrier(2, timeout=PATIENCE_SECONDS)
        act: Callable[[int], object] = {
            "claim": lambda number: claim("w", limit=1),
            "finish with a retry": lambda number: finish(failed[number]),
            "promote": lambda number: store.promote_retries(using="default"),
            "rescue": lambda number: rescue("rescuer"),
        }[what]

        def cancel() -> None:
            for job in jobs:
                barrier.wait()
                with suppress(StaleTransition):
                    job.mark_as_cancelled(actor="alice")

        def other() -> None:
            for number in range(count):
                barrier.wait()
                act(number)

        together(cancel, other, barrier=barrier)
        assert all(journal_of(job).count(("retrying", "queued")) <= 1 for job in jobs)
        for job in jobs:
            passed = journal_of(job)
            assert passed[-1][1] == row_of(job)["status"]
            assert ("cancelled" in passed[-1]) == (row_of(job)["status"] == "cancelled")

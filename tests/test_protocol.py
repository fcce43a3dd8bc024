"""The protocol of claim, lease, fencing token and cancel: its model, and rare situations of the real worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, ClassVar

import pytest
from django.db import OperationalError, connection, transaction

from container_manager import queue, store
from container_manager.conf import AppSettings
from container_manager.executors.base import Capabilities, Executor, LaunchSpec
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.run import Run
from container_manager.worker.set_aside import SetAside

from .jobs import row_of
from .polling import PATIENCE_SECONDS, eventually
from .protocol.__main__ import main
from .protocol.model import APART, LOCAL, PLACES, SHARED, Guards, check
from .protocol.records import expire_lease, records_of, register, rescue

_LOST = "a worker that has lost attempt 1 changes something"
_CANCELLED = "a cancelled job becomes"
_MIXED = "the job runs, and its attempt is closed or another's"
_TWICE = "the job runs twice at once"
_STUCK = "one worker alone does not settle the job"


@pytest.mark.without_database
class TestModel:
    @pytest.mark.parametrize(
        ("place", "states"),
        [
            pytest.param(LOCAL, 10_000, marks=pytest.mark.slow),
            pytest.param(SHARED, 20_000, marks=pytest.mark.slow),
            (APART, 4_000),
        ],
        ids=PLACES,
    )
    @pytest.mark.shows("explanation/worker.md#the-lease")
    def test_no_order_of_steps_breaks_the_protocol(self, place: str, states: int) -> None:
        result = check(Guards(), places=[place])
        assert result.problem is None, "\n".join(result.trace)
        # Without its reductions (equal states merged, what no longer matters forgotten) the model has 100 times as many.
        assert result.states > states
        assert result.steps > 5 * states

    @pytest.mark.parametrize(
        ("missing", "place", "problem"),
        [
            ({"finish_checks_worker", "finish_checks_attempt"}, LOCAL, _LOST),
            ({"finish_checks_worker"}, LOCAL, _LOST),
            ({"finish_checks_attempt"}, LOCAL, _LOST),
            ({"finish_checks_status"}, LOCAL, _CANCELLED),
            ({"rescue_moves_job"}, LOCAL, _MIXED),
            ({"rescue_moves_attempt"}, LOCAL, _MIXED),
            pytest.param({"rescue_waits_for_lease"}, LOCAL, _TWICE, marks=pytest.mark.slow),
            ({"rescue_waits_for_outage"}, LOCAL, _TWICE),
            ({"rescue_checks_engine"}, APART, _TWICE),
            ({"unreached_are_given_up"}, APART, _STUCK),
            pytest.param({"dead_register_anew"}, LOCAL, _TWICE, marks=pytest.mark.slow),
            ({"claim_checks_status"}, LOCAL, "two attempts are open"),
            ({"warden_ends_processes"}, LOCAL, _TWICE),
            pytest.param({"launch_checks_lease"}, SHARED, _TWICE, marks=pytest.mark.slow),
            pytest.param({"launch_checks_owner"}, APART, _TWICE, marks=pytest.mark.slow),
            ({"worker_compares"}, LOCAL, _STUCK),
        ],
        ids=lambda value: "_and_".join(sorted(value)) if isinstance(value, set) else "",
    )
    def test_without_any_one_guard_the_protocol_breaks(self, missing: set[str], place: str, problem: str) -> None:
        result = check(Guards(**dict.fromkeys(missing, False)), places=[place])
        assert result.problem is not None
        assert result.problem.startswith(problem)
        assert len(result.trace) > 1

    def test_every_guard_has_its_counterexample(self) -> None:
        marks = [
            m for m in TestModel.test_without_any_one_guard_the_protocol_breaks.pytestmark if m.name == "parametrize"
        ]
        cases = [getattr(case, "values", case) for case in marks[0].args[1]]
        assert set().union(*(missing for missing, *_ in cases)) == {field.name for field in fields(Guards)}

    def test_a_rescue_that_keeps_the_jobs_worker_lets_the_old_owner_finish(self) -> None:
        result = check(Guards(rescue_moves_job=False), without={_MIXED})
        assert (result.problem or "").startswith(_LOST)
        assert result.trace[-2:] == ("b rescues", result.problem)

    @pytest.mark.slow
    def test_without_the_warden_the_command_of_a_frozen_worker_runs_for_ever(self) -> None:
        result = check(Guards(warden_ends_processes=False), without={_TWICE})
        assert result.problem == _STUCK

    def test_the_steps_to_a_violation_are_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["finish_checks_worker", "finish_checks_attempt"]) == 1
        head, *way = capsys.readouterr().out.splitlines()
        assert _LOST in head
        assert [line.split(". ", 1)[1].split(" when ")[0] for line in way] == [
            "the lease of a runs out",
            "the outage of a lasts",
            "a claims",
            "a hears: claim 1",
            "a starts 1",
            "a sees failure of 1",
            "b rescues",
            _LOST,
        ]


SETTINGS = AppSettings(poll_seconds=0.05, lease_seconds=60.0, outage_seconds=90.0)


@contextmanager
def working(
    executor: Executor,
    *,
    settings: AppSettings = SETTINGS,
    others: Mapping[str, Executor] | None = None,
    **options: Any,
) -> Iterator[WorkerLoop]:
    """Run a worker in a thread, with an executor ``default``, and ``others`` by their aliases."""
    executors = {"default": executor, **(others or {})}
    loop = WorkerLoop(settings=settings, executors=executors, options=WorkerOptions(**options))

    def run() -> None:
        try:
            loop.run()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: Worker.objects.filter(pk=loop.id).exists())
        yield loop
    finally:
        loop.stop()
        loop.stop()
        thread.join(timeout=PATIENCE_SECONDS)
    assert not thread.is_alive()


@contextmanager
def holding_a_run() -> Iterator[tuple[WorkerLoop, Run]]:
    """Make a worker that holds a run and does nothing by itself."""
    loop = WorkerLoop(settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions())
    try:
        assert loop._register()
        queue.enqueue(command="sleep 600", grace_seconds=0)
        (job,) = store.claim(worker=loop.id, executors=["default"], limit=1, using="default")
        loop._runs.take_on(job)
        (run,) = loop._runs
        yield loop, run
    finally:
        loop._engines.close()


class GatedExecutor(ProcessExecutor):
    """Launches one attempt at a time, and none before its gate is open."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=False, isolates=False, launch_threads=1)

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.asked: list[str] = []
        self.wanted: list[bool] = []

    def submit(self, spec: LaunchSpec) -> str:
        self.asked.append(spec.key)
        self.gate.wait(PATIENCE_SECONDS)
        self.wanted.append(spec.is_wanted())
        return super().submit(spec)


@pytest.mark.django_db(transaction=True)
class TestWorker:
    def test_a_job_is_launched_when_the_answer_to_its_claim_was_lost(self) -> None:
        """The test claims in the worker's name: the database knows of it, the worker does not."""
        job = queue.enqueue(command="echo started", queue="another", max_retries=0)
        with working(ProcessExecutor(), queues=("its own",)) as loop:
            claimed: list[store.ClaimedJob] = []

            def claim() -> list[store.ClaimedJob]:
                # MariaDB locks for a moment the jobs that the worker's own claim reads and does not take.
                claimed.extend(store.claim(worker=loop.id, executors=["default"], limit=1, using="default"))
                return claimed

            eventually(claim)
            assert [c.id for c in claimed] == [job.pk]
            eventually(lambda: row_of(job)["status"] in ("completed", "failed"))
        job.refresh_from_db()
        assert (job.status, job.attempt, job.failure_reason) == ("completed", 1, "")
        assert [row["data"] for row in records_of(job)["logs"]] == [b"started\n"]

    @pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
    def test_an_attempt_that_was_lost_before_its_launch_is_not_launched(self) -> None:
        first, second = (queue.enqueue(command="sleep 600") for _ in range(2))
        executor = GatedExecutor()
        with working(executor) as loop:
            former = loop.id
            eventually(lambda: JobAttempt.objects.count() == 2 and executor.asked)
            register("rescuer")
            expire_lease(former)
            assert rescue("rescuer") == 2
            loop._heartbeat.hurry()  # a minute's lease is too long to wait for
            eventually(lambda: loop.id != former)
            executor.gate.set()
            eventually(lambda: not loop._runs)
            eventually(lambda: not executor.observe().attempts)
        assert len(executor.asked) == 1
        # The launch that was on its way is told that it is not wanted.
        assert executor.wanted == [False]
        for job in (first, second):
            assert (row_of(job)["status"], row_of(job)["worker"]) == ("running", "rescuer")

    def test_an_earlier_attempt_of_a_running_job_is_stopped(self) -> None:
        job = queue.enqueue(command="sleep 600", grace_seconds=0)
        with working(ProcessExecutor(), queues=("default",)):
            eventually(lambda: row_of(job)["status"] == "running")
            ContainerJob.objects.update(queue="others")
            job.refresh_from_db()
            register("other")
            with transaction.atomic():
                job.mark_as_failed(should_retry=True, actor="alice")
                job.mark_as_queued(actor="alice")
            assert len(store.claim(worker="other", executors=["default"], limit=1, using="default")) == 1
            eventually(lambda: not job.attempts.filter(number=1, finished_at=None).exists())
        assert (row_of(job)["status"], row_of(job)["worker"], row_of(job)["attempt"]) == ("running", "other", 2)

    def test_a_worker_claims_nothing_before_it_has_renewed_an_expired_lease(self) -> None:
        """Others may have taken it for dead: what it claims would be lost at once."""
        job = queue.enqueue(command="true")
        loop = WorkerLoop(settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions())
        try:
            assert loop._register()
            loop._heartbeat._renewed_at -= SETTINGS.lease_seconds
            loop._talk_to_database()
            assert row_of(job)["status"] == "queued"
            loop._heartbeat._beat()
            loop._talk_to_database()
            assert row_of(job)["status"] == "running"
        finally:
            loop._engines.close()

    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite's lock ends with the process that has it")
    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_every_connection_of_a_worker_limits_idle_transactions(self) -> None:
        show = {
            "postgresql": "SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'",
            "mysql": "SELECT @@idle_transaction_timeout * 1000",
        }[connection.vendor]
        loop = WorkerLoop(settings=SETTINGS, executors={}, options=WorkerOptions())
        found = []

        def look() -> None:
            with connection.cursor() as cursor:
                cursor.execute(show)
                found.append(float(cursor.fetchone()[0]))

        def lose() -> None:
            raise OperationalError("away")

        for work in (look, lose, look):
            loop._database.back.hurry()
            loop._database.attempt(work)
        assert found == [SETTINGS.lease_seconds * 1000] * 2

    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_a_worker_without_its_database_does_not_busy_wait(self) -> None:
        def away(execute: Callable[..., Any], *args: Any) -> Any:
            raise OperationalError("away")

        loop = WorkerLoop(settings=SETTINGS, executors={}, options=WorkerOptions())
        assert loop._register()
        with connection.execute_wrapper(away):
            turns = 0
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                loop._wait()
                loop._turn()
                turns += 1
        assert turns < 50

    def test_an_executor_gets_no_heartbeat_for_a_lease_that_was_not_renewed(self) -> None:
        heard: list[float] = []

        class Listening(ProcessExecutor):
            def heartbeat(self, seconds: float) -> None:
                heard.append(seconds)

        def away(execute: Callable[..., Any], *args: Any) -> Any:
            raise OperationalError("away")

        executor = Listening()
        loop = WorkerLoop(settings=SETTINGS, executors={"default": executor}, options=WorkerOptions())
        try:
            assert loop._register()
            loop._heartbeat._beat()
            assert len(heard) == 2
            # From the renewal on others leave this worker its local processes for so long: for more than a lease.
            for seconds in heard:
                assert SETTINGS.lease_seconds < seconds <= SETTINGS.outage_seconds
            with connection.execute_wrapper(away):
                loop._heartbeat._beat()
            assert len(heard) == 2
        finally:
            executor.close()

    @pytest.mark.shows("explanation/worker.md#the-database-is-away")
    def test_after_its_own_outage_a_worker_rescues_no_attempts_at_once(self) -> None:
        """Others may have been cut off by the same outage: they get time to renew their leases."""
        queue.enqueue(command="true", max_retries=0)
        register("other")
        (claimed,) = store.claim(worker="other", executors=["default"], limit=1, using="default")
        expire_lease("other")
        job = ContainerJob.objects.get(pk=claimed.id)
        loop = WorkerLoop(settings=SETTINGS, executors={}, options=WorkerOptions())
        assert loop._register()
        loop._heartbeat._renewed_at -= SETTINGS.lease_seconds
        loop._do_maintenance()
        loop._heartbeat._beat()
        loop._do_maintenance()
        assert (row_of(job)["status"], row_of(job)["worker"]) == ("running", "other")
        loop._rescuer._look.hurry()
        loop._heartbeat._rescues_from = 0.0
        loop._rescuer._watch._seconds = 0.0  # it has looked on for long enough
        loop._do_maintenance()
        assert (row_of(job)["status"], row_of(job)["failure_reason"]) == ("failed", "lost")

    def test_a_workers_row_is_never_visible_without_a_lease(self) -> None:
        """Another worker would delete it as that of an expired worker."""

        def away(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE container_manager_worker"):
                raise OperationalError("away")
            return execute(sql, *args)

        with connection.execute_wrapper(away), pytest.raises(OperationalError):
            register("w")
        assert not Worker.objects.exists()

    @pytest.mark.parametrize("is_stored", [False, True], ids=["not yet stored", "just stored"])
    def test_an_attempt_whose_outcome_is_being_stored_is_neither_adopted_again_nor_abandoned(
        self, is_stored: bool
    ) -> None:
        with holding_a_run() as (loop, run):
            # The finisher is at work, in another thread.
            loop._finisher.batch = [run]
            if is_stored:
                outcome = store.Outcome(job_id=run.job.id, attempt=1, status="completed", exit_code=0)
                assert store.finish([outcome], worker=loop.id, using="default")
            loop._comparison.compare(loop.id)
            assert (list(loop._runs), run.abandoned) == ([run], False)

    def test_an_attempt_that_another_worker_has_rescued_is_abandoned(self) -> None:
        with holding_a_run() as (loop, run):
            register("rescuer")
            expire_lease(loop.id)
            assert rescue("rescuer") == 1
            loop._comparison.compare(loop.id)
            assert run.abandoned

    def test_a_cancelled_attempt_is_stopped_once(self) -> None:
        with holding_a_run() as (loop, run):
            ContainerJob.objects.filter(pk=run.job.id).transition_to("cancelled")
            loop._comparison.compare(loop.id)
            assert run.stopped_for == "cancelled"
            run.stopped_for = "as before"
            loop._comparison.compare(loop.id)
            assert run.stopped_for == "as before"

    def test_an_outcome_that_could_not_be_stored_is_not_stored_again_at_once(self) -> None:
        with holding_a_run() as (loop, run):
            # As long as this is looked at, however long that takes.
            loop._reports._unstorable = SetAside(first_seconds=PATIENCE_SECONDS, longest_seconds=PATIENCE_SECONDS)
            loop._reports._set_aside(run, "end")
            entry = store.LogEntry(sequence=0, stream="stdout", data=b"x")
            run.log_changes = [store.LogChange(job_id=run.job.id, attempt=1, entries=[entry])]
            loop._reports.store_news(loop.id)
            assert run.log_changes
            run.outcome = store.Outcome(job_id=run.job.id, attempt=1, status="completed", exit_code=0)
            loop._reports.finish(loop.id)
            assert loop._finisher.take() == ((), set())
            # Its end waits for the database and for no slot.
            assert loop._claims.room() == loop._options.slots
            loop._reports._unstorable.drop(run.id)
            loop._reports.finish(loop.id)
            assert loop._finisher.take() == ([run], {run.id})

    def test_the_attempt_of_a_cancelled_job_without_a_worker_for_its_executor_is_closed(self) -> None:
        with holding_a_run() as (loop, _):
            job = queue.enqueue(command="true", executor="gone", max_retries=0)
            store.claim(worker=loop.id, executors=["gone"], limit=1, using="default")
            job.refresh_from_db()
            job.mark_as_cancelled()
            loop._comparison.compare(loop.id)
            attempt = job.attempts.get()
            assert (row_of(job)["status"], attempt.finished_at is None, attempt.reason) == ("cancelled", False, "")

    def test_a_worker_that_is_late_to_renew_its_own_lease_rescues_no_attempts(self) -> None:
        queue.enqueue(command="true")
        register("other")
        store.claim(worker="other", executors=["default"], limit=1, using="default")
        expire_lease("other")
        loop = WorkerLoop(settings=SETTINGS, executors={}, options=WorkerOptions())
        assert loop._register()
        loop._heartbeat._renewed_at -= SETTINGS.lease_seconds
        loop._do_maintenance()
        assert JobAttempt.objects.get().worker == "other"

    @pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
    def test_a_worker_whose_lease_was_revoked_abandons_its_attempts(self) -> None:
        jobs: list[ContainerJob] = [queue.enqueue(command="sleep 600") for _ in range(3)]
        executor = ProcessExecutor()
        with working(executor, queues=("default",)) as loop:
            former = loop.id
            eventually(lambda: len(executor.observe().attempts) == 3)
            queue.pause_queue("default")
            register("rescuer")
            expire_lease(former)
            assert rescue("rescuer") == 3
            loop._heartbeat.hurry()  # a minute's lease is too long to wait for
            eventually(lambda: loop.id != former)
            eventually(lambda: not executor.observe().attempts)
            assert not Worker.objects.filter(pk=former).exists()
        assert {row_of(job)["worker"] for job in jobs} == {"rescuer"}

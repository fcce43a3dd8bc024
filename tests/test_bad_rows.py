"""A row that the database refuses is set aside with its reason; the others of its batch and the worker go on."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DataError, IntegrityError, connection
from django.utils import timezone

from container_manager import queue, store
from container_manager.cli.finding import short_id
from container_manager.conf import AppSettings
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.maintenance import Maintenance
from container_manager.worker.set_aside import SetAside

from .database_triggers import MESSAGE, refusing
from .jobs import journal_of, row_of
from .protocol.records import bury, expire_lease, register
from .test_protocol import eventually, working

pytestmark = pytest.mark.django_db(transaction=True)
_TOO_LARGE = 2**70
# A pause that no test outlasts.
_LONG = 3600.0
SETTINGS = AppSettings(poll_seconds=0.05)


def claim(**options: Any) -> list[store.ClaimedJob]:
    return store.claim(worker="w", executors=["default"], limit=10, using="default", **options)


def completed(job: store.ClaimedJob, **more: Any) -> store.Outcome:
    return store.Outcome(job_id=job.id, attempt=job.attempt, status="completed", **{"exit_code": 0, **more})


def odd_job(**fields: Any) -> ContainerJob:
    """Queue a job whose next attempt exists already, as after ``update(attempt=0)``."""
    job = queue.enqueue(command="true", **fields)
    JobAttempt.objects.create(job=job, number=1, worker="", launched_at=timezone.now(), finished_at=timezone.now())
    return job


class Refusals(list[tuple[Any, Exception]]):
    def note(self, what: Any, error: Exception) -> None:
        self.append((what, error))


class TestClaiming:
    def test_a_job_that_cannot_be_claimed_does_not_block_the_others(self) -> None:
        good = [queue.enqueue(command="true").pk for _ in range(2)]
        bad = odd_job(priority=90)
        good.append(queue.enqueue(command="true").pk)
        refusals = Refusals()
        assert [job.id for job in claim(refused=refusals.note)] == good
        assert [job for job, _ in refusals] == [bad.pk]
        assert isinstance(refusals[0][1], IntegrityError)
        assert (row_of(bad)["status"], row_of(bad)["attempt"], journal_of(bad)) == ("queued", 0, [])

    def test_jobs_that_are_skipped_leave_their_place_to_others(self) -> None:
        bad = [odd_job(priority=90) for _ in range(3)]
        good = queue.enqueue(command="true")
        jobs = store.claim(worker="w", executors=["default"], besides=[job.pk for job in bad], limit=1, using="default")
        assert [job.id for job in jobs] == [good.pk]

    @pytest.mark.shows("explanation/worker.md#a-row-is-bad")
    def test_a_worker_drains_its_queue_past_a_job_that_cannot_be_claimed(self, caplog: Any) -> None:
        bad = odd_job(priority=90)
        good = [queue.enqueue(command="true") for _ in range(3)]
        loop = WorkerLoop(
            settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions(drain=True, slots=1)
        )
        with caplog.at_level(logging.ERROR, logger="container_manager"):
            assert loop.run() == 3
        assert {row_of(job)["status"] for job in good} == {"completed"}
        assert row_of(bad)["status"] == "queued"
        assert "refuses the claim" in row_of(bad)["last_error"]
        assert str(bad.pk) in caplog.text
        # However long the worker has taken to end since it was refused the claim.
        loop._claims._unclaimable.drop(bad.pk)
        assert loop.unclaimable == {bad.pk}

    def test_a_job_that_can_be_claimed_again_is_claimed_and_its_refusal_is_forgotten(self) -> None:
        with working(ProcessExecutor()):
            with refusing("NEW.status = 'running'"):
                job = queue.enqueue(command="true")
                eventually(lambda: MESSAGE in row_of(job)["last_error"])
            eventually(lambda: row_of(job)["status"] == "completed")
        assert row_of(job)["last_error"] == ""

    @pytest.mark.parametrize("option", ["--drain", "--once"])
    def test_a_command_that_ends_by_itself_names_the_jobs_that_could_not_be_claimed(self, option: str) -> None:
        bad = odd_job()
        with pytest.raises(CommandError, match=short_id(bad.pk)):
            call_command("container", "worker", option)
        assert row_of(bad)["status"] == "queued"

    def test_a_worker_for_one_job_raises_an_error_if_that_job_cannot_be_claimed(self) -> None:
        bad = odd_job()
        loop = WorkerLoop(
            settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions(only=bad.pk)
        )
        with pytest.raises(IntegrityError):
            loop.run()

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="Only SQLite stores text that is none.")
    def test_a_job_that_cannot_be_read_does_not_block_the_others(self) -> None:
        bad, good = (queue.enqueue(command="true", priority=priority) for priority in (90, 50))
        with connection.cursor() as cursor:
            key = ContainerJob._meta.pk.get_db_prep_value(bad.pk, connection)
            cursor.execute("UPDATE container_manager_containerjob SET name = CAST(x'ff' AS TEXT) WHERE id = %s", [key])
        refusals = Refusals()
        assert [job.id for job in claim(refused=refusals.note)] == [good.pk]
        assert [job for job, _ in refusals] == [bad.pk]

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="Only SQLite stores a word in a column of numbers.")
    @pytest.mark.parametrize("was_claimed", [False, True], ids=["claimed", "rescued"])
    def test_a_job_with_values_that_no_worker_can_work_with_fails(self, was_claimed: bool) -> None:
        bad, good = (queue.enqueue(command="true", priority=priority) for priority in (90, 50))
        with connection.cursor() as cursor:
            key = ContainerJob._meta.pk.get_db_prep_value(bad.pk, connection)
            cursor.execute("UPDATE container_manager_containerjob SET timeout_seconds = 'soon' WHERE id = %s", [key])
        if was_claimed:
            store.claim(worker="gone", executors=["default"], limit=1, using="default")
        with working(ProcessExecutor()):
            eventually(lambda: row_of(good)["status"] == "completed")
            eventually(lambda: row_of(bad)["status"] == "failed")
        assert row_of(bad)["failure_reason"] == "start"


class TestFinishing:
    def test_an_outcome_that_the_database_refuses_does_not_block_the_others(self) -> None:
        for _ in range(5):
            queue.enqueue(command="true")
        jobs = claim()
        outcomes = [completed(job) for job in jobs]
        outcomes[3] = completed(jobs[3], exit_code=_TOO_LARGE)
        refusals = Refusals()
        closed = store.finish(outcomes, worker="w", refused=refusals.note, using="default")
        assert closed == {(job.id, 1) for job in jobs} - {(jobs[3].id, 1)}
        assert [outcome.job_id for outcome, _ in refusals] == [jobs[3].id]
        assert isinstance(refusals[0][1], DataError | OverflowError)
        # What is refused can be stored in another way later.
        assert store.finish([completed(jobs[3])], worker="w", using="default") == {(jobs[3].id, 1)}

    def test_a_finish_that_does_not_collect_refusals_raises_the_error_and_stores_nothing(self) -> None:
        for _ in range(2):
            queue.enqueue(command="true")
        good, bad = claim()
        with pytest.raises((DataError, OverflowError)):
            store.finish([completed(good), completed(bad, exit_code=_TOO_LARGE)], worker="w", using="default")
        assert set(ContainerJob.objects.values_list("status", flat=True)) == {"running"}

    @pytest.mark.shows("explanation/worker.md#a-row-is-bad")
    def test_output_that_the_database_refuses_does_not_block_other_output(self) -> None:
        for _ in range(3):
            queue.enqueue(command="true")
        jobs = claim()
        changes = [
            store.LogChange(job_id=job.id, attempt=1, entries=[store.LogEntry(sequence=s, stream="stdout", data=b"x")])
            for job, s in zip(jobs, (0, -_TOO_LARGE, 0), strict=True)
        ]
        refusals = Refusals()
        assert store.store_logs(changes, worker="w", refused=refusals.note, using="default") == set()
        kept = {job.id for job in jobs if ContainerJob.objects.get(pk=job.id).output()}
        # MariaDB's INSERT IGNORE stores the nearest number instead.
        assert kept >= {jobs[0].id, jobs[2].id}
        assert kept | {change.job_id for change, _ in refusals} == {job.id for job in jobs}

    @pytest.mark.shows("explanation/worker.md#a-row-is-bad")
    def test_a_worker_goes_on_while_an_outcome_is_refused_and_stores_it_later(
        self, caplog: Any, tmp_path: Path
    ) -> None:
        ran = tmp_path / "ran"
        with refusing("NEW.status = 'completed' AND NEW.name = 'bad'"):
            bad = [queue.enqueue(command=f"sh -c 'echo ran >> {ran}; echo done'", name="bad") for _ in range(2)]
            with caplog.at_level(logging.ERROR, logger="container_manager"), working(ProcessExecutor(), slots=2):
                eventually(lambda: all(str(job.pk) in caplog.text for job in bad))
                others = [queue.enqueue(command="true") for _ in range(4)]
                eventually(lambda: {row_of(job)["status"] for job in others} == {"completed"})
                assert {row_of(job)["status"] for job in bad} == {"running"}
                with connection.cursor() as cursor:
                    # What the project's trigger asks is put right.
                    cursor.execute("UPDATE container_manager_containerjob SET name = 'good' WHERE name = 'bad'")
                eventually(lambda: {row_of(job)["status"] for job in bad} == {"completed"})
        assert [job.output() for job in bad] == [b"done\n"] * 2
        assert ran.read_text() == "ran\n" * 2
        assert MESSAGE in caplog.text

    def test_an_attempt_that_cannot_be_adopted_is_not_tried_again_at_once(self, caplog: Any) -> None:
        job = queue.enqueue(command="true", executor="gone", name="bad")
        loop = WorkerLoop(settings=SETTINGS, executors={"default": ProcessExecutor()}, options=WorkerOptions())
        # Its own first pause is 0.2 s, which may be over at the second comparison.
        loop._reports._unstorable = SetAside(first_seconds=_LONG, longest_seconds=_LONG)
        assert loop._register()
        store.claim(worker=loop.id, executors=["gone"], limit=1, using="default")
        with refusing("NEW.status = 'failed' AND NEW.name = 'bad'"):
            loop._comparison.compare(loop.id)
            lines = len(caplog.records)
            loop._comparison.compare(loop.id)
        assert str(job.pk) in caplog.text
        assert len(caplog.records) == lines
        assert row_of(job)["status"] == "running"


class TestMaintenance:
    def test_a_retry_that_the_database_refuses_does_not_block_the_others_and_is_set_aside(self, caplog: Any) -> None:
        jobs: list[ContainerJob] = [queue.enqueue(command="true", name=name) for name in ("good", "bad", "good")]
        failed = [completed(job)._replace(status="failed", reason="error", retry_after_seconds=0.0) for job in claim()]
        store.finish(failed, worker="w", using="default")
        register("w")
        maintenance = Maintenance(SETTINGS, using="default")
        # Its own first pause is 1 s, which may be over at the second run.
        maintenance._refused = SetAside(first_seconds=_LONG, longest_seconds=_LONG)
        with refusing("NEW.status = 'queued' AND NEW.name = 'bad'"):
            assert maintenance.run("w", {}, retries_are_due=True)
            assert [row_of(job)["status"] for job in jobs] == ["queued", "retrying", "queued"]
            lines = len(caplog.records)
            assert not maintenance.run("w", {}, retries_are_due=True)
        assert str(jobs[1].pk) in caplog.text
        assert len(caplog.records) == lines

    @pytest.mark.shows("explanation/worker.md#a-row-is-bad")
    def test_an_attempt_that_cannot_be_rescued_does_not_block_the_others(self) -> None:
        register("gone")
        for name in ("good", "bad", "good"):
            queue.enqueue(command="true", name=name)
        store.claim(worker="gone", executors=["default"], limit=3, using="default")
        expire_lease("gone")
        register("rescuer")
        refusals = Refusals()
        options = {"worker": "rescuer", "engines": {}, "using": "default"}
        bury("rescuer")
        with refusing("NEW.worker = 'rescuer' AND NEW.name = 'bad'"):
            assert store.rescue(**options, refused=refusals.note) == 2
            (((attempt, *_), _),) = refusals
            assert store.rescue(**options, besides=[attempt]) == 0
        assert store.rescue(**options) == 1

    def test_a_job_that_nobody_can_run_and_that_cannot_fail_does_not_end_its_worker(self) -> None:
        jobs: list[ContainerJob] = [queue.enqueue(command="true", executor="gone", name=n) for n in ("bad", "good")]
        ContainerJob.objects.update(queued_at=timezone.now() - timedelta(hours=1))
        register("w")
        settings = replace(SETTINGS, unschedulable_after_seconds=60.0)
        with refusing("NEW.status = 'failed' AND NEW.name = 'bad'"):
            Maintenance(settings, using="default").run("w", {}, retries_are_due=False)
        assert [row_of(job)["status"] for job in jobs] == ["queued", "failed"]


@pytest.mark.without_database
class TestSetAside:
    def test_the_pause_before_a_key_is_tried_again_doubles_up_to_the_longest(self) -> None:
        aside: SetAside[str] = SetAside(first_seconds=10.0, longest_seconds=60.0)
        assert [aside.put("a") for _ in range(5)] == [10.0, 20.0, 40.0, 60.0, 60.0]
        assert aside.put("b") == 10.0
        assert aside.waiting() == {"a", "b"}
        aside.drop("a")
        assert (aside.waiting(), aside.put("a")) == ({"b"}, 10.0)

    def test_a_key_is_tried_again_after_its_pause(self) -> None:
        aside: SetAside[str] = SetAside(first_seconds=0.0, longest_seconds=60.0)
        aside.put("a")
        assert aside.waiting() == set()

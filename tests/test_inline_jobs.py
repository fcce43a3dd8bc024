"""Jobs that a test runs itself (`container_manager.testing`): for real, or scripted, in its thread and transaction."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings
from django.utils import timezone

from container_manager import queue
from container_manager.executors.base import ExitStatus, LaunchSpec, Rejected, Unavailable
from container_manager.models import ContainerJob, JobTransition, Worker
from container_manager.signals import job_transitioned
from container_manager.testing import FakeRun, JobNotRun, fake_jobs, run_job, run_queued_jobs

from .polling import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db


either_way = pytest.mark.parametrize(
    "in_transaction",
    [
        pytest.param(True, marks=pytest.mark.django_db, id="in a transaction"),
        pytest.param(False, marks=pytest.mark.django_db(transaction=True), id="in autocommit"),
    ],
)


@pytest.fixture
def one_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every connection that another thread makes be an error, also one of the worker itself."""
    here, connect, others = threading.get_ident(), BaseDatabaseWrapper.connect, []

    def checked(self: BaseDatabaseWrapper) -> None:
        if threading.get_ident() != here:
            others.append(threading.current_thread().name)
        connect(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "connect", checked)
    yield
    assert others == []


def moves(job: ContainerJob) -> list[str]:
    return list(JobTransition.objects.filter(job=job).order_by("pk").values_list("to_status", flat=True))


def test_objects_frozen_in_the_garbage_collector_stay_frozen_after_a_worker() -> None:
    # The tests have frozen what they have imported. How much that is changes: what nobody refers to is freed at once.
    def is_frozen(thing: object) -> bool:
        return gc.is_tracked(thing) and all(each is not thing for each in gc.get_objects())

    assert is_frozen(queue)
    queue.enqueue(command="true")
    assert len(run_queued_jobs()) == 1
    assert is_frozen(queue)


@either_way
@pytest.mark.usefixtures("one_connection")
def test_a_job_runs_with_its_real_transitions_output_and_exit_code_on_the_tests_connection_alone(
    in_transaction: bool,
) -> None:
    assert connection.in_atomic_block == in_transaction
    job = queue.enqueue(command="sh -c 'echo out; echo err >&2; exit 7'", max_retries=0)
    before, raw = set(threading.enumerate()), connection.connection
    assert run_job(job) is job
    assert (job.status, job.exit_code, job.failure_reason) == ("failed", 7, "error")
    assert (job.output(stream="stdout"), job.output(stream="stderr")) == (b"out\n", b"err\n")
    assert moves(job) == ["running", "failed"]
    assert not Worker.objects.exists()
    assert connection.connection is raw
    # One that another test has left may have ended meanwhile.
    assert set(threading.enumerate()) <= before


@either_way
def test_queued_jobs_run_one_after_another_by_priority_and_other_jobs_stay(in_transaction: bool) -> None:
    second, first = queue.enqueue(command="true"), queue.enqueue(command="echo first", priority=90)
    later = queue.enqueue(command="true", scheduled_for=timezone.now() + timedelta(days=1))
    paused = queue.enqueue(command="true", queue="paused")
    other = queue.enqueue(command="true", queue="other")
    queue.pause_queue("paused")
    assert run_queued_jobs(queues=["default", "paused"]) == [first, second]
    assert run_queued_jobs() == [other]
    assert run_queued_jobs() == []
    assert first.output() == b"first\n"
    statuses = dict(ContainerJob.objects.values_list("pk", "status"))
    assert [statuses[job.pk] for job in (first, second, later, paused)] == [
        "completed",
        "completed",
        "queued",
        "queued",
    ]


def test_a_job_that_another_one_has_queued_runs_too() -> None:
    def script(spec: LaunchSpec) -> FakeRun:
        if spec.job.name == "first":
            queue.enqueue(name="second", command="true")
        return FakeRun()

    queue.enqueue(name="first", command="true")
    with fake_jobs(script) as fake:
        assert [job.name for job in run_queued_jobs()] == ["first", "second"]
    assert [spec.job.name for spec in fake.launched] == ["first", "second"]


def test_run_job_queues_a_pending_job_and_waits_neither_for_its_time_nor_for_a_retry() -> None:
    pending = ContainerJob.objects.create(command="sh -c 'exit 3'", max_retries=1)
    later = queue.enqueue(command="true", scheduled_for=timezone.now() + timedelta(days=1))
    assert run_job(pending).status == "retrying"
    assert run_job(pending).status == "failed"
    assert moves(pending) == ["queued", "running", "failed", "retrying", "queued", "running", "failed"]
    assert run_job(later).status == "completed"


def test_run_job_runs_no_other_job() -> None:
    other, job = queue.enqueue(command="true", priority=100), queue.enqueue(command="true")
    run_job(job)
    other.refresh_from_db()
    assert (job.status, other.status) == ("completed", "queued")


def test_a_job_that_cannot_run_inline_is_reported_with_what_to_do() -> None:
    done = run_job(queue.enqueue(command="true"))
    with pytest.raises(JobNotRun, match=r"is completed\. Run what `queue\.retry\(job\)` returns"):
        run_job(done)
    assert run_job(queue.retry(done)).status == "completed"
    queue.pause_queue("bulk")
    with pytest.raises(JobNotRun, match=r"'bulk' is paused\. Call `queue\.resume_queue\('bulk'\)`"):
        run_job(queue.enqueue(command="true", queue="bulk"))


def test_an_inline_job_that_does_not_end_is_killed() -> None:
    job = queue.enqueue(command="sleep 3600", max_retries=0)
    # On a slow machine half a second may not be enough to begin.
    for seconds in (0.5, 10, PATIENCE_SECONDS):
        with pytest.raises(TimeoutError, match=rf"has not ended within {seconds:g} s, and was killed"):
            run_job(job, timeout=seconds)
        job.refresh_from_db()
        if job.status != "queued":
            break
    assert (job.status, job.failure_reason) == ("failed", "lost")


@pytest.mark.shows("howto/testing.md#script-what-jobs-do")
@pytest.mark.parametrize(
    ("scripted", "status", "reason", "exit_code"),
    [
        (FakeRun(), "completed", "", 0),
        (FakeRun(exit=3), "failed", "error", 3),
        (FakeRun(exit=ExitStatus(signal=11)), "failed", "signal", None),
        (FakeRun(exit=ExitStatus(code=137, oom=True)), "failed", "oom", 137),
        (FakeRun(exit=ExitStatus(lost=True)), "failed", "lost", None),
        (Rejected("image", "There is no such image."), "failed", "image", None),
        (Rejected("unavailable", "The registry was away for too long."), "failed", "unavailable", None),
    ],
)
def test_a_scripted_job_ends_as_the_script_says(scripted: Any, status: str, reason: str, exit_code: int | None) -> None:
    job = queue.enqueue(name="report-7", image="any", command="report", max_retries=0)
    with fake_jobs({"report-*": scripted, "*": FakeRun(exit=99)}):
        run_job(job)
    assert (job.status, job.failure_reason, job.exit_code) == (status, reason, exit_code)


def test_a_scripted_job_prints_what_the_script_says() -> None:
    with fake_jobs({"report": FakeRun(stdout="größer\n", stderr=b"\xff")}) as fake:
        job = run_job(queue.enqueue(name="report", command="report --year 2025", environment={"A": "b"}))
    assert (job.output(stream="stdout"), job.output(stream="stderr")) == ("größer\n".encode(), b"\xff")
    [launched] = fake.launched
    assert (launched.argv, launched.environment["A"]) == (("report", "--year", "2025"), "b")


def test_a_scripted_job_without_an_end_runs_into_its_timeout() -> None:
    job = queue.enqueue(command="any", timeout_seconds=1, max_retries=0)
    with fake_jobs({"*": FakeRun(exit=None)}):
        run_job(job)
    assert (job.status, job.failure_reason) == ("failed", "timeout")


@either_way
def test_a_scripted_job_can_be_cancelled_while_it_runs(in_transaction: bool) -> None:
    def script(spec: LaunchSpec) -> FakeRun:
        running = ContainerJob.objects.get(name=spec.job.name)
        assert running.status == "running"
        queue.cancel(running, reason="not needed")
        return FakeRun(exit=None)

    with fake_jobs(script):
        job = run_job(queue.enqueue(name="report", command="any"))
    assert (job.status, moves(job)) == ("cancelled", ["running", "cancelled"])
    assert job.attempts.get().finished_at is not None


def test_an_engine_that_is_away_for_a_moment_is_asked_again() -> None:
    answers = iter([Unavailable("away"), FakeRun(exit=4)])
    with fake_jobs(lambda spec: next(answers)) as fake:
        job = run_job(queue.enqueue(command="any", max_retries=0))
    assert (job.status, job.exit_code, len(fake.launched)) == ("failed", 4, 2)


def test_an_invalid_script_fails_the_job_with_the_reason() -> None:
    with fake_jobs({"*": 7}):  # type: ignore[dict-item]
        job = run_job(queue.enqueue(command="any", max_retries=0))
    assert (job.status, job.failure_reason) == ("failed", "start")
    assert "must say a FakeRun or an ExecutorError, not 7" in job.last_error


def test_nested_fake_jobs_apply_inside_their_block_only() -> None:
    with fake_jobs({"*": FakeRun(exit=1)}):
        with fake_jobs({"*": FakeRun(exit=2)}):
            assert run_job(queue.enqueue(command="true")).exit_code == 2
        assert run_job(queue.enqueue(command="true")).exit_code == 1
    assert run_job(queue.enqueue(command="true")).exit_code == 0


def other_script(spec: LaunchSpec) -> FakeRun:
    return FakeRun(exit=5)


@pytest.mark.parametrize(("options", "code"), [({}, 0), ({"script": f"{__name__}.other_script"}, 5)])
def test_an_alias_of_the_settings_can_be_a_fake_executor(options: dict[str, str], code: int) -> None:
    executors = {"default": {"BACKEND": "container_manager.testing.FakeExecutor", "OPTIONS": options}}
    with override_settings(CONTAINER_MANAGER={"EXECUTORS": executors}):
        assert run_job(queue.enqueue(command="no-such-program")).exit_code == code


def test_limits_of_the_settings_hold_for_faked_executors() -> None:
    default = {"BACKEND": "container_manager.executors.process.ProcessExecutor", "LIMITS": {"max_retries": 0}}
    with override_settings(CONTAINER_MANAGER={"EXECUTORS": {"default": default}}), fake_jobs({"*": FakeRun(exit=3)}):
        assert run_job(queue.enqueue(command="any", max_retries=9)).status == "failed"


@pytest.mark.django_db(transaction=True)
def test_receivers_of_transitions_are_called_in_the_tests_thread_before_run_job_returns() -> None:
    heard: list[tuple[str, int]] = []

    def note(transitions: Any, **_: Any) -> None:
        heard.extend((move.target, threading.get_ident()) for move in transitions)

    job_transitioned.connect(note)
    try:
        run_job(queue.enqueue(command="true"))
    finally:
        job_transitioned.disconnect(note)
    assert heard == [(status, threading.get_ident()) for status in ("queued", "running", "completed")][-len(heard) :]
    assert {status for status, _ in heard} >= {"running", "completed"}


@pytest.mark.django_db(transaction=True)
def test_inline_jobs_of_a_transaction_that_is_rolled_back_never_ran() -> None:
    with transaction.atomic():
        run_job(queue.enqueue(command="true"))
        transaction.set_rollback(True)
    assert not ContainerJob.objects.exists()


@pytest.mark.django_db(databases=["default", "other"])
def test_inline_jobs_of_another_database_run_there() -> None:
    job = queue.enqueue(command="echo there", using="other")
    assert run_job(job).output() == b"there\n"
    queue.enqueue(command="true", using="other")
    assert [found.status for found in run_queued_jobs(using="other")] == ["completed"]
    assert "default" not in {alias for alias in connections if ContainerJob.objects.using(alias).exists()}


def test_an_executor_that_the_settings_lack_is_named() -> None:
    job = queue.enqueue(command="true", executor="elsewhere")
    assert run_queued_jobs() == []
    with pytest.raises(Exception, match="There is no executor 'elsewhere'"):
        run_job(job)


@pytest.mark.without_database
def test_pytest_is_needed_by_the_suite_and_the_plugin_only() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "import django; from django.conf import settings; "
        "settings.configure(INSTALLED_APPS=['django.contrib.contenttypes', 'container_manager'], DATABASES={'default': "
        "{'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}); django.setup()\n"
        "import container_manager.testing"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

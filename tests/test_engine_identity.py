"""An alias is not an engine: who may take over an attempt is decided by the engine that has it."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest

from container_manager import queue, store
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.worker import WorkerLoop, WorkerOptions
from container_manager.worker.run import Stage

from .jobs import row_of
from .protocol.records import register
from .test_clock import age
from .test_runs import SETTINGS as RUN_SETTINGS
from .test_runs import Engine, SurvivingEngine, claimed, running, runs_on

# A minute and a half: nothing here waits for that long.
SETTINGS = replace(RUN_SETTINGS, lease_seconds=90.0)
database = pytest.mark.django_db(transaction=True)


def left_behind(engine: str = "host a") -> ContainerJob:
    """Return a job that runs on an engine, and whose worker is dead."""
    job = queue.enqueue(command="true")
    store.claim(worker="dead", executors=["default"], engines={"default": engine}, limit=1, using="default")
    store.record_launches([store.Launch(job.pk, 1, "h")], worker="dead", using="default")
    return job


def engine_called(identity: str) -> SurvivingEngine:
    engine = SurvivingEngine()
    engine.identity = identity
    return engine


def loop_on(engine: Engine) -> WorkerLoop:
    loop = WorkerLoop(settings=SETTINGS, executors={"default": engine}, options=WorkerOptions())
    assert loop._register()
    loop._engines.note_change("default")
    loop._runs.turn()
    return loop


def owner(job: ContainerJob) -> str:
    assert row_of(job)["status"] == "running"
    return JobAttempt.objects.get(job=job).worker


@database
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_attempts_are_rescued_only_by_a_worker_that_reaches_their_engine() -> None:
    job, engine = left_behind(), engine_called("host a")
    engine.is_away = True
    cut_off, elsewhere = loop_on(engine), loop_on(engine_called("host b"))
    for loop in (cut_off, elsewhere):
        loop._do_maintenance()
        assert (owner(job), list(loop._runs)) == ("dead", [])
    engine.is_away = False
    cut_off._runs.turn()
    cut_off._maintain.hurry()
    cut_off._do_maintenance()
    assert owner(job) == cut_off.id


@database
@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
@pytest.mark.parametrize("status", ["running", "cancelled"])
def test_an_attempt_whose_engine_no_worker_reaches_is_given_up_after_a_while(status: str) -> None:
    job = left_behind()
    if status == "cancelled":
        job.refresh_from_db()
        job.mark_as_cancelled()
    loop = loop_on(engine_called("host b"))
    loop._do_maintenance()
    assert (row_of(job)["status"], JobAttempt.objects.get().finished_at) == (status, None)
    maintenance = loop._maintenance
    age(maintenance._unowned, SETTINGS.unreachable_seconds)
    maintenance._look.hurry()
    loop._do_maintenance()
    assert row_of(job)["status"] == ("retrying" if status == "running" else status)
    assert JobAttempt.objects.get().finished_at is not None
    assert "No worker reached its engine, host a of executor 'default'" in JobAttempt.objects.get().message
    assert JobAttempt.objects.get().reason == ("lost" if status == "running" else "")


@database
def test_an_attempt_that_a_worker_has_rescued_meanwhile_is_not_given_up() -> None:
    job = left_behind()
    loop = loop_on(engine_called("host b"))
    loop._do_maintenance()
    register("rescuer")
    assert store.rescue(worker="rescuer", engines={"default": "host a"}, using="default") == 1
    maintenance = loop._maintenance
    age(maintenance._unowned, SETTINGS.unreachable_seconds)
    maintenance._look.hurry()
    loop._do_maintenance()
    assert owner(job) == "rescuer"


@database
@pytest.mark.shows("howto/docker.md#use-several-daemons")
def test_two_hosts_with_different_engines_under_one_alias_are_warned(caplog: pytest.LogCaptureFixture) -> None:
    first, same, other = (loop_on(engine_called(name)) for name in ("host a", "host a", "host b"))
    Worker.objects.filter(pk=first.id).update(host="alpha")
    for loop in (first, same, other, other):
        with caplog.at_level(logging.WARNING):
            loop._engine_record.update(loop.id)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "Executor default is another engine here than for the workers on alpha" in warnings[0]
    assert Worker.objects.get(pk=other.id).engines == {"default": "host b"}


class TestRunWithEngineAway:
    def test_a_run_whose_engine_is_away_is_given_up_by_the_time_since_its_adoption(self) -> None:
        engine = SurvivingEngine()
        runs = runs_on(engine, replace(RUN_SETTINGS, unreachable_seconds=60.0))
        engine.is_away = True
        runs._engines._away_since["default"] = time.monotonic() - 3600
        runs.adopt(
            store.OwnedAttempt(job=claimed(), status="running", engine="default", handle="h", claimed_by="x"), by="me"
        )
        (run,) = runs
        runs.turn()
        assert run.stage is Stage.RUNNING
        assert run.unreachable_since is not None
        run.unreachable_since -= 60.0
        runs.turn()
        assert (run.stage, run.outcome and run.outcome.reason) == (Stage.ENDED, "lost")

    def test_a_run_is_left_alone_while_another_engine_answers_under_its_alias(self) -> None:
        engine = engine_called("host a")
        runs = runs_on(engine)
        run = running(runs)
        held, engine.phases, engine.identity = engine.phases, {}, "host b"
        runs.turn()
        assert (run.stage, run.unreachable_since is None) == (Stage.RUNNING, False)
        engine.phases, engine.identity = held, "host a"
        runs.turn()
        assert (run.stage, run.unreachable_since) == (Stage.RUNNING, None)

    def test_a_run_is_not_launched_on_another_engine_under_its_alias(self) -> None:
        engine = engine_called("host a")
        runs = runs_on(engine)
        engine.launch_error = None
        engine.identity = "host b"
        job = claimed()
        run = runs._hold(job, engine="host a")
        runs._engines.observe("default")
        runs._launcher.begin(run)
        runs.turn()
        assert (run.stage, engine.asked) == (Stage.LAUNCHING, [])

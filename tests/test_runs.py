"""One attempt in a worker's hands: its stages, and what is done with it when it is adopted or abandoned."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import ClassVar

import pytest

from container_manager import store
from container_manager.conf import AppSettings
from container_manager.executors.base import (
    Capabilities,
    DependencyUnavailable,
    Executor,
    ExitStatus,
    Health,
    LaunchSpec,
    LogChunk,
    LogPage,
    Observation,
    Observations,
    Phase,
    Rejected,
    Unavailable,
    Waiting,
)
from container_manager.jobs.spec import JobSpec
from container_manager.worker.capped_output import CappedOutput
from container_manager.worker.engines import Engines
from container_manager.worker.run import STAGES, Run, Stage
from container_manager.worker.runs import Runs

pytestmark = pytest.mark.without_database

# Observe at every turn.
SETTINGS = AppSettings(poll_seconds=0.0, unreachable_seconds=600.0)


class Engine(Executor):
    """An engine in memory: a test sets how each attempt is doing, and reads what the engine was asked to do."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=False, isolates=False, launch_threads=0)

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self.asked: list[str] = []
        self.launch_error: Exception | None = None
        self.is_away = False
        self.identity = ""
        self.output_is_complete = True

    def submit(self, spec: LaunchSpec) -> str:
        self.asked.append("submit")
        if self.launch_error is not None:
            raise self.launch_error
        self.phases[spec.key] = Phase.RUNNING
        return f"handle of {spec.key}"

    def observe(self) -> Observations:
        if self.is_away:
            raise Unavailable("The engine is away.")
        found = [
            Observation(key, f"handle of {key}", phase, ExitStatus(code=0) if phase is Phase.EXITED else None)
            for key, phase in self.phases.items()
        ]
        return Observations(attempts=found, as_of=time.monotonic(), engine=self.identity)

    def watch(self, timeout: float) -> bool:
        return False

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        return LogPage((), cursor, complete=self.output_is_complete)

    def stop(self, handle: str, grace_seconds: float) -> None:
        self.asked.append("stop")

    def remove(self, handle: str, *, failed: bool = False) -> None:
        self.asked.append("remove")

    def release(self, handle: str) -> None:
        self.asked.append("release")

    def check(self) -> Health:
        return Health(ok=True, message="")


class SurvivingEngine(Engine):
    """One whose attempts survive the worker, as containers do."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=True, launch_threads=0)


def claimed(attempt: int = 1) -> store.ClaimedJob:
    return store.ClaimedJob(uuid.UUID(int=7), attempt, 0, JobSpec(command="true", executor="default"))


def runs_on(engine: Engine, settings: AppSettings = SETTINGS) -> Runs:
    engines = Engines({"default": engine}, settings)
    # Nothing is claimed for an engine before it has answered.
    engines.observe("default")
    return Runs(engines, settings, lambda: None)


def owned(runs: Runs, **values: str) -> store.OwnedAttempt:
    """Return an attempt of the engine that answers now."""
    return store.OwnedAttempt(job=claimed(), engine=runs._engines.identity("default"), **values)


def launching(runs: Runs) -> Run:
    runs.take_on(claimed())
    return next(iter(runs))


def running(runs: Runs) -> Run:
    run = launching(runs)
    runs.turn()
    assert run.stage is Stage.RUNNING
    return run


def exited(runs: Runs, engine: Engine) -> Run:
    run = running(runs)
    engine.phases[run.key], engine.output_is_complete = Phase.EXITED, False
    runs.turn()
    assert run.stage is Stage.EXITED
    return run


class TestStages:
    def test_a_run_goes_from_launching_to_running_once_the_engine_has_launched_it(self) -> None:
        runs = runs_on(Engine())
        run = launching(runs)
        assert run.stage is Stage.LAUNCHING
        runs.turn()
        assert (run.stage, run.handle) == (Stage.RUNNING, f"handle of {run.key}")

    def test_a_run_goes_from_launching_to_ended_when_the_engine_refuses_it(self) -> None:
        engine = Engine()
        engine.launch_error = Rejected("image", "There is no such image.")
        runs = runs_on(engine)
        run = launching(runs)
        runs.turn()
        assert run.stage is Stage.ENDED
        assert run.outcome is not None
        assert (run.outcome.status, run.outcome.reason) == ("failed", "image")

    def test_a_run_goes_from_launching_to_ended_when_the_engine_is_away_for_too_long(self) -> None:
        engine = Engine()
        engine.launch_error = Unavailable("The engine is away.")
        runs = runs_on(engine, AppSettings(poll_seconds=0.0, unreachable_seconds=0.0))
        run = launching(runs)
        runs.turn()
        assert run.stage is Stage.ENDED
        assert run.outcome is not None
        assert (run.outcome.status, run.outcome.reason) == ("failed", "lost")

    def test_a_run_goes_from_running_to_exited_while_output_is_still_to_come(self) -> None:
        engine = Engine()
        run = exited(runs_on(engine), engine)
        assert (run.stage, run.outcome) == (Stage.EXITED, None)

    def test_a_run_goes_from_exited_to_ended_once_the_output_is_complete(self) -> None:
        engine = Engine()
        runs = runs_on(engine)
        run = exited(runs, engine)
        engine.output_is_complete = True
        runs.turn()
        assert run.stage is Stage.ENDED
        assert run.outcome is not None
        assert (run.outcome.status, run.outcome.exit_code) == ("completed", 0)

    def test_a_run_goes_from_running_to_ended_when_the_engine_no_longer_holds_it(self) -> None:
        engine = Engine()
        runs = runs_on(engine)
        run = running(runs)
        engine.phases.clear()
        runs.turn()
        assert run.stage is Stage.ENDED
        assert run.outcome is not None
        assert (run.outcome.status, run.outcome.reason) == ("failed", "lost")

    def test_a_run_goes_from_running_to_ended_when_the_engine_is_given_up(self) -> None:
        engine = Engine()
        runs = runs_on(engine, AppSettings(poll_seconds=0.0, unreachable_seconds=0.0))
        run = running(runs)
        engine.is_away = True
        runs.turn()
        assert run.stage is Stage.ENDED
        assert run.outcome is not None
        assert (run.outcome.status, run.outcome.reason) == ("failed", "lost")

    def test_there_are_no_other_edges_between_the_stages_of_a_run(self) -> None:
        assert set(STAGES.pairs) == {
            ("launching", "running"),
            ("launching", "ended"),
            ("running", "exited"),
            ("running", "ended"),
            ("exited", "ended"),
        }

    @pytest.mark.parametrize(
        ("source", "target"), [(s, t) for s in Stage for t in Stage if not STAGES.has_edge(s, t)], ids=str
    )
    def test_an_illegal_change_of_a_runs_stage_is_an_error_in_tests_and_a_warning_in_production(
        self, source: Stage, target: Stage
    ) -> None:
        run = Run(
            job=claimed(),
            executor=Engine(),
            key="k",
            engine="",
            begin_output=partial(CappedOutput, 1024),
            deadline=None,
            stage=source,
        )
        with pytest.raises(RuntimeWarning, match=f"Attempt k goes from {source} to {target}"):
            run.enter(target)
        assert run.stage is source
        with pytest.warns(RuntimeWarning, match="goes from"):
            run.enter(target)
        assert run.stage is target


@pytest.mark.parametrize(
    ("make", "status", "handle", "claimed_by", "stage", "asked"),
    [
        (SurvivingEngine, "running", "h", "other", Stage.RUNNING, []),
        # Its launch may have failed half-way: to launch it again is harmless.
        (SurvivingEngine, "running", "", "other", Stage.LAUNCHING, ["submit"]),
        (SurvivingEngine, "cancelled", "h", "other", Stage.RUNNING, ["stop"]),
        (SurvivingEngine, "cancelled", "", "other", Stage.RUNNING, ["stop"]),
        # It ended with its worker.
        (Engine, "running", "", "other", Stage.RUNNING, []),
        # The answer to this worker's own claim was lost.
        (Engine, "running", "", "me", Stage.LAUNCHING, ["submit"]),
        (Engine, "", "", "me", Stage.RUNNING, ["stop"]),
    ],
)
def test_an_adopted_attempt_is_launched_followed_or_stopped(
    *, make: Callable[[], Engine], status: str, handle: str, claimed_by: str, stage: Stage, asked: list[str]
) -> None:
    engine = make()
    runs = runs_on(engine)
    runs.adopt(owned(runs, status=status, handle=handle, claimed_by=claimed_by), by="me")
    (run,) = runs
    assert (run.stage, run.handle, run.handle_stored) == (stage, handle or run.key, bool(handle))
    assert engine.asked == asked


class TestAbandon:
    @pytest.mark.parametrize(("make", "asked"), [(Engine, "remove"), (SurvivingEngine, "release")])
    def test_abandoning_a_run_kills_a_process_and_leaves_a_container_to_others(
        self, make: Callable[[], Engine], asked: str
    ) -> None:
        engine = make()
        runs = runs_on(engine)
        runs.abandon(running(runs))
        assert engine.asked == ["submit", asked]
        assert len(runs) == 0

    @pytest.mark.parametrize(("make", "asked"), [(Engine, "remove"), (SurvivingEngine, "release")])
    def test_abandoning_a_run_during_its_launch_waits_for_the_launch(
        self, make: Callable[[], Engine], asked: str
    ) -> None:
        engine = make()
        runs = runs_on(engine)
        run = launching(runs)
        runs.abandon(run)
        assert (engine.asked, list(runs)) == (["submit"], [run])
        runs.turn()
        assert (engine.asked, list(runs)) == (["submit", asked], [])

    def test_abandoning_a_run_whose_launch_failed_kills_nothing_and_stores_no_outcome(self) -> None:
        engine = Engine()
        engine.launch_error = Unavailable("The engine is away.")
        runs = runs_on(engine)
        run = launching(runs)
        runs.abandon(run)
        runs.turn()
        assert (engine.asked, list(runs), run.outcome) == (["submit"], [], None)

    def test_abandoning_spares_an_attempt_that_this_worker_has_adopted_again(self) -> None:
        engine = SurvivingEngine()
        runs = runs_on(engine)
        former = launching(runs)
        runs.abandon(former)
        runs.adopt(owned(runs, status="running", handle="h", claimed_by="me"), by="me")
        (run,) = runs
        assert run is not former
        runs.turn()
        assert (engine.asked, list(runs)) == (["submit"], [run])


class TestTimeout:
    def adopted(self, *, elapsed_seconds: float) -> tuple[Runs, Engine, Run]:
        engine = SurvivingEngine()
        runs = runs_on(engine)
        spec = JobSpec(command="true", executor="default", timeout_seconds=60)
        job = store.ClaimedJob(uuid.UUID(int=7), 1, 0, spec, elapsed_seconds)
        found = store.OwnedAttempt(job=job, status="running", handle="h", claimed_by="another")
        runs.adopt(found, by="w")
        (run,) = runs
        engine.phases[run.key] = Phase.RUNNING
        return runs, engine, run

    def test_the_timeout_of_an_adopted_attempt_counts_from_its_launch_by_another_worker(self) -> None:
        runs, engine, run = self.adopted(elapsed_seconds=61.0)
        runs.turn()
        assert (run.stopped_for, engine.asked) == ("timeout", ["stop"])

    def test_an_adopted_attempt_that_has_time_left_goes_on(self) -> None:
        runs, engine, run = self.adopted(elapsed_seconds=1.0)
        runs.turn()
        assert (run.stopped_for, engine.asked) == (None, [])

    def test_the_wait_of_a_launch_does_not_count_for_the_timeout(self) -> None:
        engine, until = SurvivingEngine(), Future[None]()
        engine.launch_error = Waiting("the image 'x'", until)
        runs = runs_on(engine)
        runs.take_on(claimed()._replace(spec=JobSpec(command="true", executor="default", timeout_seconds=60)))
        runs.turn()
        (run,) = runs
        assert (run.deadline, run.launch()) == (None, store.Launch(*run.id, waiting_for="the image 'x'"))
        run.claimed_at -= 600.0
        engine.launch_error = None
        until.set_result(None)
        runs.turn()
        assert (engine.asked, run.stage, run.stopped_for) == (["submit", "submit"], Stage.RUNNING, None)
        assert run.launch().waited_seconds >= 600.0


class TestLaunchWait:
    """A launch that waits for something, without a thread."""

    @pytest.fixture
    def until(self) -> Future[None]:
        return Future()

    @pytest.fixture
    def engine(self, until: Future[None]) -> SurvivingEngine:
        engine = SurvivingEngine()
        engine.launch_error = Waiting("the image 'x'", until)
        return engine

    def waiting(self, engine: SurvivingEngine) -> tuple[Runs, Run]:
        runs = runs_on(engine)
        runs.take_on(claimed())
        runs.turn()
        (run,) = runs
        assert (run.stage, run.waiting_for) == (Stage.LAUNCHING, "the image 'x'")
        return runs, run

    def test_an_error_that_ends_a_launch_wait_is_the_outcome_of_the_launch(
        self, engine: SurvivingEngine, until: Future[None]
    ) -> None:
        runs, run = self.waiting(engine)
        until.set_exception(Rejected("unavailable", "The registry was away."))
        runs.turn()
        assert run.outcome is not None
        assert (run.outcome.reason, run.outcome.message) == ("unavailable", "The registry was away.")
        assert engine.asked == ["submit"]

    def test_a_launch_wait_ends_when_its_attempt_is_abandoned(
        self, engine: SurvivingEngine, until: Future[None]
    ) -> None:
        runs, run = self.waiting(engine)
        runs.abandon(run)
        assert engine.asked == ["submit", "release"]
        until.set_exception(Unavailable("It is another worker's."))
        runs.turn()
        assert list(runs) == []

    def test_a_launch_with_an_unavailable_dependency_for_too_long_fails_as_unavailable_and_not_as_lost(
        self, engine: SurvivingEngine
    ) -> None:
        runs = Runs(Engines({"default": engine}, SETTINGS), SETTINGS, lambda: None)
        engine.launch_error = DependencyUnavailable("There is no space left.")
        runs.take_on(claimed())
        (run,) = runs
        run.launch_until = time.monotonic()
        runs.turn()
        assert run.outcome is not None
        assert (run.outcome.reason, run.outcome.message) == ("unavailable", "There is no space left.")


class TestOutput:
    @pytest.mark.parametrize("is_adopted", [False, True])
    def test_stored_output_of_an_adopted_attempt_is_replaced(self, is_adopted: bool) -> None:
        """It has cut the output in other places."""
        runs = runs_on(SurvivingEngine())
        if is_adopted:
            runs.adopt(store.OwnedAttempt(job=claimed(), status="running", handle="h", claimed_by="another"), by="w")
        else:
            runs.take_on(claimed())
        (run,) = runs
        run.output.feed([LogChunk(stream="stdout", data=b"output")])
        run.prepare_log_change()
        (change,) = run.log_changes
        assert (change.gone is not None) is is_adopted

"""While an engine does not answer, nothing is known about its jobs: they stay as they are."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from container_manager import queue
from container_manager.executors.base import Capabilities, DependencyUnavailable, LaunchSpec, Observations, Unavailable
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.worker import WorkerLoop, WorkerOptions, engines, runs

from .jobs import row_of
from .test_protocol import SETTINGS, eventually, working

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usual_statements]
_UNREACHABLE_SECONDS = 600.0


class RemoteExecutor(ProcessExecutor):
    """Local processes of an engine that can be away."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=False, isolates=False, launch_threads=1)
    is_away = False

    def submit(self, spec: LaunchSpec) -> str:
        self._ask()
        return super().submit(spec)

    def observe(self) -> Observations:
        self._ask()
        return super().observe()

    def _ask(self) -> None:
        if self.is_away:
            raise Unavailable("The engine is away.")


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_jobs_of_an_engine_that_is_away_stay_unchanged_and_no_further_job_is_claimed_for_it(tmp_path: Path) -> None:
    ended, executor = tmp_path / "ended", RemoteExecutor()
    job = queue.enqueue(
        command=f"sh -c 'until test -e {tmp_path}/go; do sleep 0.02; done; touch {ended}; exit 3'", max_retries=0
    )
    with working(executor) as loop:
        eventually(lambda: executor.observe().attempts)
        executor.is_away = True
        # Only then: an answer on its way would tell the end.
        eventually(lambda: loop._engines.reachable == [])
        (tmp_path / "go").touch()
        eventually(ended.exists)
        later = queue.enqueue(command="true")
        lease = Worker.objects.get(pk=loop.id).lease_expires_at
        loop._heartbeat.hurry()  # a third of a minute's lease is too long to wait for
        eventually(lambda: Worker.objects.get(pk=loop.id).lease_expires_at > lease)
        assert (row_of(job)["status"], row_of(later)["status"]) == ("running", "queued")
        executor.is_away = False
        eventually(lambda: (row_of(job)["status"], row_of(later)["status"]) == ("failed", "completed"))
    assert (row_of(job)["exit_code"], row_of(job)["failure_reason"]) == (3, "error")
    assert (row_of(later)["attempt"], JobAttempt.objects.count()) == (1, 2)


@pytest.mark.shows("explanation/worker.md#the-engine-is-away", "howto/docker.md#use-several-daemons")
def test_while_an_engine_is_away_another_is_served() -> None:
    away = RemoteExecutor()
    away.is_away = True
    settings = replace(SETTINGS, executors={"default": {}, "here": {}})
    with working(away, settings=settings, others={"here": ProcessExecutor()}) as loop:
        waiting = queue.enqueue(command="true")
        eventually(lambda: loop._engines.reachable == ["here"])
        served = queue.enqueue(command="true", executor="here")
        eventually(lambda: row_of(served)["status"] == "completed")
        assert (row_of(waiting)["status"], loop._engines.reachable) == ("running", ["here"])
        away.is_away = False
        eventually(lambda: row_of(waiting)["status"] == "completed")
    outer, inner = (JobAttempt.objects.get(job=job) for job in (waiting, served))
    assert outer.finished_at is not None
    assert inner.finished_at is not None
    assert outer.launched_at < inner.launched_at <= inner.finished_at < outer.finished_at


class DistantExecutor(RemoteExecutor):
    """Local processes that claim to survive their worker, as containers do."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=False, launch_threads=1)


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_nothing_is_claimed_for_an_engine_before_it_has_answered() -> None:
    executor = DistantExecutor()
    executor.is_away = True
    job, settings = queue.enqueue(command="true"), replace(SETTINGS, executors={"default": {}, "here": {}})
    with working(executor, settings=settings, others={"here": ProcessExecutor()}) as loop:
        # One after another, more than there are slots: the worker has had enough chances to claim the first one.
        for _ in range(5):
            served = queue.enqueue(command="true", executor="here")
            eventually(lambda of=served: row_of(of)["status"] == "completed")
        assert (row_of(job)["status"], loop._engines.reachable) == ("queued", ["here"])
        executor.is_away = False
        eventually(lambda: row_of(job)["status"] == "completed")
    assert row_of(job)["attempt"] == 1


class TestDraining:
    def drained(self, *, due: str, back: bool = False) -> tuple[WorkerLoop, ContainerJob]:
        """Drain a queue with a job for one of two executors, ``here`` and ``away``; the latter may be ``back`` later."""
        away, job = DistantExecutor(), queue.enqueue(command="true", executor=due)
        away.is_away = True
        # Given up soon where the drain can end in no other way, and else never, however slow the machine is.
        unreachable_seconds = 0.2 if due == "away" and not back else 3600.0
        settings = replace(SETTINGS, executors={"here": {}, "away": {}}, unreachable_seconds=unreachable_seconds)
        loop = WorkerLoop(
            settings=settings,
            executors={"here": ProcessExecutor(), "away": away},
            options=WorkerOptions(drain=True),
        )
        if back:
            claimed = loop._claims._plan_next

            def plan(found: int, room: int) -> None:
                claimed(found, room)
                away.is_away = False

            loop._claims._plan_next = plan  # type: ignore[method-assign]
        loop.run()
        return loop, job

    def test_a_drain_does_not_wait_for_an_engine_without_due_jobs(self) -> None:
        loop, job = self.drained(due="here")
        assert (row_of(job)["status"], loop.gave_up) == ("completed", [])

    def test_a_drain_ends_without_an_engine_that_is_given_up(self) -> None:
        loop, job = self.drained(due="away")
        assert (row_of(job)["status"], row_of(job)["attempt"], loop.gave_up) == ("queued", 0, ["away"])

    def test_a_drain_waits_for_an_engine_that_is_not_given_up(self) -> None:
        loop, job = self.drained(due="away", back=True)
        assert (row_of(job)["status"], row_of(job)["attempt"], loop.gave_up) == ("completed", 1, [])


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_jobs_of_an_engine_that_is_given_up_are_lost() -> None:
    executor = RemoteExecutor()
    job = queue.enqueue(command="sleep 600", max_retries=0)
    with working(executor, settings=replace(SETTINGS, unreachable_seconds=1.0)):
        eventually(lambda: JobAttempt.objects.exists() and executor.observe().attempts)
        executor.is_away, began = True, time.monotonic()
        eventually(lambda: row_of(job)["status"] == "failed")
        assert time.monotonic() - began >= 1.0
    assert row_of(job)["failure_reason"] == "lost"
    assert "could not be reached" in row_of(job)["last_error"]


class SlowExecutor(RemoteExecutor):
    """Takes longer for its first launch than it may be away, as for a pull of an image, and then is away for a moment."""

    has_failed, now = False, 0.0

    def submit(self, spec: LaunchSpec) -> str:
        if not self.has_failed:
            self.has_failed = True
            self.now += 2 * _UNREACHABLE_SECONDS
            raise Unavailable("The engine is away.")
        return super().submit(spec)


def test_a_slow_launch_is_tried_again_when_its_engine_is_away_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = SlowExecutor()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + executor.now)
    for module in (engines, runs):
        monkeypatch.setattr(module, "time", clock)
    job = queue.enqueue(command="true", max_retries=0)
    settings = replace(SETTINGS, unreachable_seconds=_UNREACHABLE_SECONDS)
    WorkerLoop(settings=settings, executors={"default": executor}, options=WorkerOptions(drain=True)).run()
    assert (row_of(job)["status"], row_of(job)["attempt"], row_of(job)["last_error"]) == ("completed", 1, "")


class NeedyExecutor(RemoteExecutor):
    """Answers, but launches with an image need a registry that is away."""

    is_lacking, refusals = True, 0

    def submit(self, spec: LaunchSpec) -> str:
        if self.is_lacking and spec.job.image:
            self.refusals += 1
            raise DependencyUnavailable("The registry does not answer.")
        return super().submit(spec)


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_an_engine_is_not_away_because_the_registry_of_one_launch_is_away() -> None:
    executor = NeedyExecutor(ignore_isolation=True)
    # The engine is observed rarely enough that the samples would see it if it counted as away.
    with working(executor, settings=replace(SETTINGS, poll_seconds=1.0)) as loop:
        needy = queue.enqueue(command="true", image="far/away:1")
        while executor.refusals < 3:
            assert loop._engines.reachable == ["default"]
            time.sleep(0.01)  # samples
        other = queue.enqueue(command="true")
        eventually(lambda: row_of(other)["status"] == "completed")
        assert row_of(needy)["status"] == "running"
        executor.is_lacking = False
        eventually(lambda: row_of(needy)["status"] == "completed")
    assert (row_of(needy)["attempt"], row_of(needy)["last_error"]) == (1, "")

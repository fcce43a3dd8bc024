"""An engine that does not answer says nothing of its jobs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from container_manager import queue
from container_manager.executors.base import Capabilities, DependencyUnavailable, LaunchSpec, Observations, Unavailable
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobAttempt, Worker
from container_manager.worker import WorkerLoop, WorkerOptions

from .jobs import row_of
from .test_protocol import SETTINGS, eventually, working

pytestmark = pytest.mark.django_db(transaction=True)


class RemoteExecutor(ProcessExecutor):
    """Local processes behind a way that can be cut."""

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
            raise Unavailable("The way is cut.")


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_its_jobs_stay_as_they_are_and_no_other_is_claimed_until_it_is_back(tmp_path: Path) -> None:
    ended, executor = tmp_path / "ended", RemoteExecutor()
    job = queue.enqueue(
        command=f"sh -c 'until test -e {tmp_path}/go; do sleep 0.02; done; touch {ended}; exit 3'", max_retries=0
    )
    with working(executor) as loop:
        eventually(lambda: executor.observe().attempts)
        executor.is_away = True
        (tmp_path / "go").touch()
        eventually(ended.exists)
        eventually(lambda: loop._engines.reachable == [])
        later = queue.enqueue(command="true")
        lease = Worker.objects.get(pk=loop.id).lease_expires_at
        loop._renew.hurry()  # a third of a minute's lease is too long to wait for
        eventually(lambda: Worker.objects.get(pk=loop.id).lease_expires_at > lease)
        assert (row_of(job)["status"], row_of(later)["status"]) == ("running", "queued")
        executor.is_away = False
        eventually(lambda: (row_of(job)["status"], row_of(later)["status"]) == ("failed", "completed"))
    assert (row_of(job)["exit_code"], row_of(job)["failure_reason"]) == (3, "error")
    assert (row_of(later)["attempt"], JobAttempt.objects.count()) == (1, 2)


@pytest.mark.shows("explanation/worker.md#the-engine-is-away", "howto/docker.md#use-several-daemons")
def test_while_one_is_away_another_is_served() -> None:
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
    """Local processes, spoken of as if they outlived their worker: then somebody else has them."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=False, launch_threads=1)


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_before_it_has_answered_nothing_is_claimed_for_it() -> None:
    executor = DistantExecutor()
    executor.is_away = True
    job, settings = queue.enqueue(command="true"), replace(SETTINGS, executors={"default": {}, "here": {}})
    with working(executor, settings=settings, others={"here": ProcessExecutor()}) as loop:
        # As many as there are slots, one after another: the worker has had every reason to claim.
        for _ in range(5):
            served = queue.enqueue(command="true", executor="here")
            eventually(lambda of=served: row_of(of)["status"] == "completed")
        assert (row_of(job)["status"], loop._engines.reachable) == ("queued", ["here"])
        executor.is_away = False
        eventually(lambda: row_of(job)["status"] == "completed")
    assert row_of(job)["attempt"] == 1


class TestDraining:
    def drained(self, *, due: str, back: bool = False) -> tuple[WorkerLoop, ContainerJob]:
        """Drain a queue with a job for one of two executors, ``here`` and ``away``; the latter may come ``back``."""
        away, job = DistantExecutor(), queue.enqueue(command="true", executor=due)
        away.is_away = True
        settings = replace(SETTINGS, executors={"here": {}, "away": {}}, unreachable_seconds=1.0)
        loop = WorkerLoop(
            settings=settings,
            executors={"here": ProcessExecutor(), "away": away},
            options=WorkerOptions(drain=True),
        )
        if back:
            claimed = loop._plan_next_claim

            def plan(found: int, room: int) -> None:
                claimed(found, room)
                away.is_away = False

            loop._plan_next_claim = plan  # type: ignore[method-assign]
        loop.run()
        return loop, job

    def test_waits_for_no_engine_that_nothing_is_due_for(self) -> None:
        loop, job = self.drained(due="here")
        assert (row_of(job)["status"], loop.gave_up) == ("completed", [])

    def test_ends_without_an_engine_that_does_not_answer(self) -> None:
        loop, job = self.drained(due="away")
        assert (row_of(job)["status"], row_of(job)["attempt"], loop.gave_up) == ("queued", 0, ["away"])

    def test_waits_for_an_engine_that_may_yet_answer(self) -> None:
        loop, job = self.drained(due="away", back=True)
        assert (row_of(job)["status"], row_of(job)["attempt"], loop.gave_up) == ("completed", 1, [])


@pytest.mark.shows("explanation/worker.md#the-engine-is-away")
def test_after_a_while_its_jobs_are_lost() -> None:
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
    """Takes long for its first launch, say for an image, and is away for a moment when that is there."""

    has_failed = False

    def submit(self, spec: LaunchSpec) -> str:
        if not self.has_failed:
            self.has_failed = True
            time.sleep(1.0)  # longer than an engine may be away
            raise Unavailable("The way is cut.")
        return super().submit(spec)


def test_a_launch_that_took_long_is_tried_again_when_it_fails_for_a_moment() -> None:
    executor = SlowExecutor()
    job = queue.enqueue(command="true", max_retries=0)
    settings = replace(SETTINGS, unreachable_seconds=0.5)
    WorkerLoop(settings=settings, executors={"default": executor}, options=WorkerOptions(drain=True)).run()
    assert (row_of(job)["status"], row_of(job)["attempt"], row_of(job)["last_error"]) == ("completed", 1, "")


class NeedyExecutor(RemoteExecutor):
    """Answers, but for some launches it needs what cannot be had yet."""

    is_lacking, refusals = True, 0

    def submit(self, spec: LaunchSpec) -> str:
        if self.is_lacking and spec.job.image:
            self.refusals += 1
            raise DependencyUnavailable("The registry does not answer.")
        return super().submit(spec)


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_an_engine_that_lacks_what_one_launch_needs_is_not_away() -> None:
    executor = NeedyExecutor()
    # So rarely it is asked whether it is there: were it taken for away, that would be seen.
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

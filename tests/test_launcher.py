"""Calls to engines when a worker ends: those on their way are waited for, those without a thread only shortly."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import ClassVar

import pytest

from container_manager.conf import AppSettings
from container_manager.executors.base import Capabilities, Rejected
from container_manager.jobs.spec import JobSpec
from container_manager.store import ClaimedJob
from container_manager.worker import launcher
from container_manager.worker.capped_output import CappedOutput
from container_manager.worker.launcher import Launcher
from container_manager.worker.run import Run

from .polling import PATIENCE_SECONDS
from .test_runs import Engine
from .workers import eventually

pytestmark = pytest.mark.without_database


class OneThread(Engine):
    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=False, launch_threads=1)


class Removals:
    """A launcher that removes three attempts; the first removal takes until `release` is set."""

    def __init__(self) -> None:
        self.launcher = Launcher(AppSettings(), lambda: None, identity=lambda _: "")
        self.began, self.release = threading.Event(), threading.Event()
        self.removed: list[str] = []
        self.results: list[object] = []
        self._call(self._slow)
        self.began.wait(PATIENCE_SECONDS)
        for handle in ("second", "third"):
            self._call(lambda handle=handle: self.removed.append(handle))

    def _call(self, work: Callable[[], None]) -> None:
        self.launcher.call("default", OneThread(), work, done=self.results.append)

    def _slow(self) -> None:
        self.began.set()
        assert self.release.wait(PATIENCE_SECONDS)
        self.removed.append("first")


def test_a_started_removal_is_awaited_at_shutdown_and_pending_removals_are_left_to_the_next_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removals = Removals()
    monkeypatch.setattr(launcher, "_CLOSE_SECONDS", 0.0)
    closing = threading.Thread(target=removals.launcher.close)
    closing.start()
    eventually(lambda: len(removals.launcher._calls) == 1)
    assert closing.is_alive()
    removals.release.set()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()
    assert (removals.removed, removals.results) == (["first"], [None])


def test_a_launch_spec_is_built_outside_of_the_worker_loop() -> None:
    """Its command is split, and its secrets are read, when the launch has a thread, not where it is begun."""
    removals, engine = Removals(), OneThread()
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(command="echo 'oops"))
    run = Run(
        job=job, executor=engine, key="cm-i-0-1", engine="", begin_output=lambda: CappedOutput(1000), deadline=None
    )
    removals.launcher.begin(run)
    assert list(removals.launcher.results()) == []
    removals.release.set()
    eventually(lambda: not removals.launcher._results.empty())
    [(launched, error)] = removals.launcher.results()
    removals.launcher.close()
    assert launched is run
    assert isinstance(error, Rejected)
    assert "quoting is broken" in str(error)


def test_removals_that_start_soon_enough_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    removals = Removals()
    monkeypatch.setattr(launcher, "_CLOSE_SECONDS", PATIENCE_SECONDS)
    removals.release.set()
    removals.launcher.close()
    assert removals.removed == ["first", "second", "third"]

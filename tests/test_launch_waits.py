"""What launches wait for, on its way into the database: the last of it is there soon, and not each of it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, ClassVar

import pytest

from container_manager import queue, store
from container_manager.executors.base import Capabilities, LaunchSpec, Observations, Waiting
from container_manager.executors.process import ProcessExecutor
from container_manager.models import JobAttempt
from container_manager.worker import WorkerLoop, WorkerOptions

from .jobs import row_of
from .test_protocol import SETTINGS

pytestmark = pytest.mark.django_db(transaction=True)
_PASSING = [f"layer {number} of the image" for number in range(12)]
_LAST = "a node"


class WaitingExecutor(ProcessExecutor):
    """Local processes whose launches wait for one thing a turn, and for the last one until the database has it."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=False, launch_threads=0)

    def __init__(self) -> None:
        super().__init__()
        self._waits = [(what, Future[None]()) for what in (*_PASSING, _LAST)]

    def submit(self, spec: LaunchSpec) -> str:
        for what, until in self._waits:
            if not until.done():
                raise Waiting(what, until)
        return super().submit(spec)

    def observe(self) -> Observations:
        for what, until in self._waits:
            if not until.done():
                if what != _LAST or JobAttempt.objects.filter(waiting_for=_LAST).exists():
                    until.set_result(None)
                break
        return super().observe()


def test_few_of_many_short_launch_waits_are_stored_and_the_last_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[str] = []
    record_launches = store.record_launches

    def record(launches: Any, **options: Any) -> Any:
        stored.extend(launch.waiting_for for launch in launches)
        return record_launches(launches, **options)

    monkeypatch.setattr(store, "record_launches", record)
    # Longer than a dozen turns take, on a busy machine too.
    monkeypatch.setattr("container_manager.worker.reports._WAITS_SECONDS", 3.0)
    job = queue.enqueue(command="true")
    WorkerLoop(settings=SETTINGS, executors={"default": WaitingExecutor()}, options=WorkerOptions(drain=True)).run()
    assert row_of(job)["status"] == "completed"
    # The first at once, then what it waits for now; at last its handle, with nothing to wait for.
    *passing, last, nothing = stored
    assert (last, nothing) == (_LAST, "")
    assert 1 <= len(passing) <= len(_PASSING) / 2

"""Whatever an executor reports can be stored: a value that no row can hold ends no worker."""

from __future__ import annotations

import math
import socket
from typing import ClassVar

import pytest

from container_manager import queue
from container_manager.executors.base import (
    Capabilities,
    ExitStatus,
    LaunchSpec,
    LogChunk,
    LogPage,
    Observations,
    Rejected,
)
from container_manager.executors.process import ProcessExecutor
from container_manager.models import ContainerJob, JobLog, Worker
from container_manager.worker import WorkerLoop, WorkerOptions

from .jobs import row_of
from .test_protocol import SETTINGS, eventually, working

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usual_statements]
_ODD_TEXT = "a NUL \0, half a character \ud800 and much " + "more" * 10_000


class OddExecutor(ProcessExecutor):
    """Local processes that end as a test likes. They claim to survive their worker, so that handles are stored."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=False, launch_threads=0)

    def __init__(self, status: ExitStatus, *, handle: str = "") -> None:
        super().__init__()
        self._status, self._handle = status, handle

    def submit(self, spec: LaunchSpec) -> str:
        key = super().submit(spec)
        return key + self._handle

    def observe(self) -> Observations:
        seen = super().observe()
        attempts = [o._replace(exit=o.exit and self._status) for o in seen.attempts]
        return Observations(attempts=attempts, as_of=seen.as_of)

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        page = super().logs(handle.removesuffix(self._handle), cursor, limit)
        chunks = [LogChunk(stream="a stream of its own", data=chunk.data) for chunk in page.chunks]  # type: ignore[arg-type]
        return page._replace(chunks=chunks)

    def remove(self, handle: str, *, failed: bool = False) -> None:
        super().remove(handle.removesuffix(self._handle), failed=failed)


@pytest.mark.parametrize(
    "status",
    [
        ExitStatus(code=2**40),
        ExitStatus(code=-(2**40)),
        ExitStatus(signal=2**20),
        ExitStatus(signal=-1),
        ExitStatus(code=1, peak_memory_bytes=2**70, cpu_seconds=math.inf),
        ExitStatus(code=1, peak_memory_bytes=-1, cpu_seconds=math.nan),
        ExitStatus(code=1, message=_ODD_TEXT),
    ],
    ids=["code", "negative-code", "signal", "negative-signal", "too-much", "too-little", "message"],
)
def test_values_of_an_exit_status_that_no_row_can_hold_are_left_out(status: ExitStatus) -> None:
    job = queue.enqueue(command="echo said", max_retries=0)
    executor = OddExecutor(status, handle="\0\ud800")
    WorkerLoop(settings=SETTINGS, executors={"default": executor}, options=WorkerOptions(drain=True)).run()
    assert row_of(job)["status"] == "failed"
    attempt = job.attempts.get()
    assert (attempt.finished_at is not None, attempt.handle) == (True, "")
    assert [(log.stream, bytes(log.data)) for log in JobLog.objects.all()] == [("system", b"said\n")]


class RefusingExecutor(ProcessExecutor):
    def submit(self, spec: LaunchSpec) -> str:
        # Without half a character: pytest-xdist cannot pass a log with one on.
        raise Rejected("a reason that is longer than its column", _ODD_TEXT.replace("\ud800", ""))


def test_a_refusal_with_an_unknown_reason_fails_its_job_alone() -> None:
    job = queue.enqueue(command="true", max_retries=0)
    executor = RefusingExecutor()
    WorkerLoop(settings=SETTINGS, executors={"default": executor}, options=WorkerOptions(drain=True)).run()
    found = row_of(job)
    assert (found["status"], found["failure_reason"]) == ("failed", "start")
    assert "a NUL \\x00, half a character" in found["last_error"]


def test_a_worker_starts_whatever_its_host_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "\udcff" * 300)
    with working(ProcessExecutor()) as loop:
        assert Worker.objects.get(pk=loop.id).host.startswith("\\udcff")
        job = queue.enqueue(command="true")
        eventually(lambda: ContainerJob.objects.filter(pk=job.pk, status="completed").exists())

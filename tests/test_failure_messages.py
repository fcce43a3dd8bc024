"""What a failure's message says: what happened, with the limit that was in force, and what to do."""

from __future__ import annotations

import uuid

import pytest

from container_manager.conf import RetrySettings
from container_manager.executors.base import ExitStatus
from container_manager.jobs.spec import JobSpec
from container_manager.store import ClaimedJob
from container_manager.worker.outcomes import outcome_of

pytestmark = pytest.mark.without_database


def message(exit_status: ExitStatus, *, stopped_for: str | None = None, **fields: int | None) -> str:
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(**fields))  # type: ignore[arg-type]
    return outcome_of(job, exit_status, stopped_for=stopped_for, retry=RetrySettings()).message


@pytest.mark.parametrize(
    ("exit_status", "said"),
    [
        (ExitStatus(code=3), "Exit code 3. Its output may say why."),
        (ExitStatus(signal=11), "Ended by signal 11 (SIGSEGV). Its output may say why."),
        (ExitStatus(code=1, oom=True), "Out of memory (limit: 4096 bytes). Give it more by memory_bytes"),
        (ExitStatus(code=1, oom=True, message="Out of memory (limit: 5 bytes)."), "Out of memory (limit: 5 bytes)."),
        (ExitStatus(lost=True), "was stopped before the command had ended. It is run again if it has retries left."),
        (ExitStatus(unstarted=True, message="'x' could not be started."), "'x' could not be started."),
    ],
)
def test_a_failures_message_says_what_happened_and_what_to_do(exit_status: ExitStatus, said: str) -> None:
    assert said in message(exit_status, memory_bytes=4096)


def test_an_out_of_memory_message_without_a_limit_names_no_limit() -> None:
    assert message(ExitStatus(code=137, oom=True), memory_bytes=None).startswith("Out of memory. Give")


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_timeout_message_names_the_timeout_however_the_command_ended() -> None:
    """It was killed under a memory limit, which by itself might mean that it was out of memory."""
    killed = ExitStatus(code=137, signal=9, message="Ended by signal 9. Perhaps it was out of memory (limit: 5 bytes).")
    said = message(killed, stopped_for="timeout", timeout_seconds=7)
    assert said.startswith("Ran for longer than 7 s and was stopped. Give it more by timeout_seconds")
    assert "memory" not in said

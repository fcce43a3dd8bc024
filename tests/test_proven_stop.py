"""A job that asks for it is retried only after its former attempt has certainly stopped; engines may name reasons."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from container_manager.conf import RetrySettings
from container_manager.executors.base import ExitStatus
from container_manager.jobs.spec import JobSpec
from container_manager.store import ClaimedJob, Outcome
from container_manager.worker.outcomes import failed, outcome_of

pytestmark = pytest.mark.without_database

ASKS = {"retry_after_proven_stop": True}
NODE_LOST = ExitStatus(lost=True, reason="node_lost", message="Its node is gone.", may_run=True)


def outcome(exit_status: ExitStatus, container: dict[str, Any], *, stopped_for: str | None = None) -> Outcome:
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(container=container, max_retries=3))
    return outcome_of(job, exit_status, stopped_for=stopped_for, retry=RetrySettings())


def test_an_attempt_that_may_still_run_is_retried_by_default() -> None:
    found = outcome(NODE_LOST, {})
    assert (found.status, found.reason, found.message) == ("failed", "node_lost", "Its node is gone.")
    assert found.retry_after_seconds is not None
    assert not found.counts_as_retry


def test_an_attempt_that_may_still_run_is_not_retried_if_the_job_requires_a_proven_stop() -> None:
    found = outcome(NODE_LOST, ASKS)
    assert (found.status, found.reason, found.retry_after_seconds) == ("failed", "node_lost", None)
    assert "Its node is gone. It is not retried" in found.message


def test_an_attempt_with_a_proven_stop_is_retried() -> None:
    assert outcome(NODE_LOST._replace(may_run=False), ASKS).retry_after_seconds is not None


def test_a_launch_that_may_have_run_is_not_retried_if_the_job_requires_a_proven_stop() -> None:
    job = ClaimedJob(uuid.uuid4(), 1, 0, JobSpec(container=ASKS, max_retries=3))
    found = failed(job, "lost", "No answer.", exit_status=ExitStatus(may_run=True), retry=RetrySettings())
    assert found.retry_after_seconds is None


@pytest.mark.parametrize("reason", ["node_lost", "timeout", "error"])
def test_an_engines_own_reason_takes_precedence_over_the_exit_code(reason: str) -> None:
    found = outcome(ExitStatus(code=0, reason=reason, message="So it was."), {})
    assert (found.status, found.reason, found.message) == ("failed", reason, "So it was.")


def test_a_stop_by_the_worker_takes_precedence_over_an_engines_reason() -> None:
    assert outcome(NODE_LOST, {}, stopped_for="timeout").reason == "timeout"


def test_an_exit_code_of_0_of_a_lost_attempt_is_no_success() -> None:
    found = outcome(ExitStatus(code=0, lost=True), {})
    assert (found.status, found.reason, found.exit_code) == ("failed", "lost", 0)

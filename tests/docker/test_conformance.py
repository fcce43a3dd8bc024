"""The Docker executor passes the executors' conformance suite, on a real daemon."""

from __future__ import annotations

import pytest

from container_manager.testing.conformance import Conformance


@pytest.mark.shows(
    "explanation/worker.md#a-worker-is-killed",
    "explanation/worker.md#a-job-is-cancelled",
    "howto/docker.md#set-the-daemon-up",
    "reference/jobs.md#secrets",
)
class TestDockerExecutor(Conformance):
    """Runs with the harness of all tests here."""

"""The Docker executor passes the executors' conformance suite, on a real daemon."""

from __future__ import annotations

import pytest

from ..executors.conformance import Conformance


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
class TestDockerExecutor(Conformance):
    """Runs with the harness of all tests here."""

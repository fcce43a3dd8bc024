"""The Docker executor passes the executors' conformance suite, on a real daemon."""

from __future__ import annotations

from ..executors.conformance import Conformance


class TestDockerExecutor(Conformance):
    """Runs with the harness of all tests here."""

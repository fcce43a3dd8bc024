"""The Kubernetes executor passes the executors' conformance suite, on a real cluster, under the shipped Role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from container_manager.testing.conformance import Conformance

from ..prerequisites import require
from .cluster_under_test import ClusterUnderTest
from .kubernetes_harness import KubernetesHarness

pytestmark = pytest.mark.without_database


class TestKubernetesExecutor(Conformance):
    """Runs with an installation of each test's own."""

    @pytest.fixture
    def harness(self, cluster: ClusterUnderTest, namespace: str, tmp_path: Path) -> Iterator[KubernetesHarness]:
        require("A cluster of the tests' own (python -m tests.kubernetes starts one)", cluster.control)
        harness = KubernetesHarness(cluster, namespace, tmp_path)
        yield harness
        harness.clean_up()

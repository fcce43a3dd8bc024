"""The Kubernetes executor passes the executors' conformance suite, on a real cluster, under the shipped Role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from container_manager.testing.conformance import Conformance, submitted, wait_until

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

    # A kubelet does not shorten a grace period that has begun (1.37 and before: kubernetes issue 113606).
    test_a_grace_period_can_be_ended_before_its_time = None  # type: ignore[assignment]

    def test_a_shorter_grace_period_is_sent_to_the_cluster(self, harness: KubernetesHarness) -> None:
        executor = harness.executor()
        spec = harness.spec("trap 'touch $EFFECTS/told' TERM; touch $EFFECTS/ready; while :; do sleep 0.05; done")
        handle = submitted(executor, spec)
        wait_until(executor, (harness.effects() / "ready").exists)
        executor.stop(handle, 60.0)
        wait_until(executor, (harness.effects() / "told").exists)
        # The longer one that is asked for later is no extension.
        executor.stop(handle, 0.0)
        executor.stop(handle, 60.0)
        graces = [1]
        wait_until(
            executor, lambda: [pod.metadata.deletion_grace_period_seconds for pod in harness.pods(spec.key)] == graces
        )
        executor.remove(handle)

"""Under exactly the shipped Role a worker can do all that it must; each right that is missing is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_manager.conf import AppSettings
from container_manager.executors.base import Executor, Phase
from container_manager.executors.kubernetes import KubernetesExecutor
from container_manager.executors.kubernetes.cluster_rights import RIGHTS, Right
from container_manager.executors.kubernetes.labels import object_name
from container_manager.testing.conformance import ended, observation, output, printed, submitted, together, wait_until

from .cluster_under_test import ClusterUnderTest
from .deployment import manifest
from .test_live_manifests import launch

pytestmark = pytest.mark.without_database


def rules(rights: Any) -> list[dict[str, Any]]:
    """Return the rules of a Role that grants these rights."""
    return [{"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]} for right in rights]


@pytest.fixture
def executor_with(
    cluster: ClusterUnderTest, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """Make an executor whose account may do what the rules say."""
    made: list[Executor] = []

    def make(given: list[dict[str, Any]]) -> Executor:
        kubeconfig = tmp_path / "worker.kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig_of(namespace, given), encoding="utf-8")
        options = {"kubeconfig": str(kubeconfig), "namespace": namespace, "images": ["*"]}
        made.append(KubernetesExecutor.from_settings(options, AppSettings(install="access")))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def test_under_the_shipped_role_a_job_with_secrets_runs_prints_ends_and_leaves_nothing(
    executor_with: Any, cluster: ClusterUnderTest, namespace: str
) -> None:
    executor = executor_with(manifest("Role")["rules"])
    health = executor.check()
    assert (health.ok, list(health.warnings)) == (True, [])
    spec = launch(cluster, "sh", "-c", "cat $CONTAINER_MANAGER_SECRETS/key; exit 7", secret_files={"key": b"said\n"})
    handle = submitted(executor, spec)

    assert ended(executor, spec.key).code == 7
    assert printed(executor, output(executor, handle)) == together(executor, b"said\n", b"")
    executor.remove(handle)
    name = object_name(spec.key)
    cluster.wait_for(
        lambda: (
            not [
                each.metadata.name
                for objects in (
                    cluster.batch.list_namespaced_job(namespace),
                    cluster.core.list_namespaced_pod(namespace),
                    cluster.core.list_namespaced_secret(namespace),
                )
                for each in objects.items
                if each.metadata.name.startswith(name)
            ]
        )
    )


def test_under_the_shipped_role_a_job_that_runs_is_stopped(executor_with: Any, cluster: ClusterUnderTest) -> None:
    executor = executor_with(manifest("Role")["rules"])
    spec = launch(cluster, "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done", grace_seconds=60)
    handle = submitted(executor, spec)

    wait_until(executor, lambda: (found := observation(executor, spec.key)) and found.phase is Phase.RUNNING)
    executor.stop(handle, 60)
    assert ended(executor, spec.key).code == 9
    executor.remove(handle)
    wait_until(executor, lambda: observation(executor, spec.key) is None)


@pytest.mark.parametrize("missing", RIGHTS, ids=str)
def test_a_missing_right_is_named_with_what_to_do(executor_with: Any, namespace: str, missing: Right) -> None:
    health = executor_with(rules(right for right in RIGHTS if right != missing)).check()
    assert not health.ok
    assert f"may not {missing} in the namespace {namespace!r}: bind its account to the Role" in health.message


def test_an_account_without_any_right_is_told_all_of_them(executor_with: Any) -> None:
    health = executor_with([]).check()
    assert not health.ok
    assert ", ".join(map(str, RIGHTS)) in health.message

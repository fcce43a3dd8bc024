"""Under exactly the shipped Role a worker can do all that it must; each right that is missing is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
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


class Plugin:
    """A command that a kubeconfig names for a user's credentials, as those of clouds do."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._runs, self._answer, self._command = folder / "runs", folder / "answer", folder / "plugin"
        self._runs.touch()
        self._command.write_text(f"#!/bin/sh\necho run >> {self._runs}\nexec cat {self._answer}\n")
        self._command.chmod(0o755)
        self.token = ""

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().splitlines())

    def take_over(self, kubeconfig: dict[str, Any]) -> str:
        """Have a kubeconfig ask this for the token that it has; return the name of the context in which it does."""
        self.token = kubeconfig["users"][0]["user"]["token"]
        version = "client.authentication.k8s.io/v1"
        asked = {"apiVersion": version, "command": str(self._command), "interactiveMode": "Never"}
        kubeconfig["users"].append({"name": "asked", "user": {"exec": asked}})
        context = kubeconfig["contexts"][0]["context"]
        kubeconfig["contexts"].append({"name": "asking", "context": {**context, "user": "asked"}})
        # Else the other one would do.
        kubeconfig["users"][0]["user"]["token"] = context["namespace"] = "none"
        return "asking"

    def answer(self, token: str, *, valid: timedelta = timedelta(hours=1)) -> None:
        until = (datetime.now(UTC) + valid).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"token": token, "expirationTimestamp": until}
        said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        self._answer.write_text(json.dumps(said))

    def fail(self) -> None:
        self._answer.unlink()


@pytest.fixture
def executor_with(
    cluster: ClusterUnderTest, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """Make an executor whose account may do what the rules say."""
    made: list[Executor] = []

    def make(given: list[dict[str, Any]], plugin: Plugin | None = None) -> Executor:
        kubeconfig = tmp_path / "worker.kubeconfig"
        described = json.loads(cluster.kubeconfig_of(namespace, given))
        options = {"kubeconfig": str(kubeconfig), "images": ["*"]}
        if plugin is None:
            options["namespace"] = namespace
        else:
            options["context"] = plugin.take_over(described)
        kubeconfig.write_text(json.dumps(described), encoding="utf-8")
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


def test_an_account_without_any_right_gets_all_missing_rights_named(executor_with: Any) -> None:
    health = executor_with([]).check()
    assert not health.ok
    assert ", ".join(map(str, RIGHTS)) in health.message


@pytest.mark.parametrize(("valid", "is_asked_again"), [(timedelta(hours=1), False), (timedelta(minutes=1), True)])
def test_the_credential_plugin_gives_the_token_and_is_asked_again_before_it_expires(
    executor_with: Any, cluster: ClusterUnderTest, tmp_path: Path, valid: timedelta, is_asked_again: bool
) -> None:
    plugin = Plugin(tmp_path / "plugin")
    executor = executor_with(manifest("Role")["rules"], plugin)
    plugin.answer(plugin.token, valid=valid)
    assert executor.check().ok
    before = plugin.runs
    spec = launch(cluster, "sh", "-c", "exit 7")
    handle = submitted(executor, spec)
    assert ended(executor, spec.key).code == 7
    executor.remove(handle)
    assert (plugin.runs > before, before > 0) == (is_asked_again, True)


def test_a_credential_plugin_that_fails_for_a_while_is_asked_again(executor_with: Any, tmp_path: Path) -> None:
    """Without credentials a client is nobody, whom the API server answers otherwise than one whose token is refused."""
    plugin = Plugin(tmp_path / "plugin")
    executor = executor_with(manifest("Role")["rules"], plugin)
    plugin.answer("no-token")
    assert "(401)" in executor.check().message
    plugin.fail()
    # What it was given before is refused once more.
    wait_until(executor, lambda: 'User "system:anonymous"' in executor.check().message)
    plugin.answer(plugin.token)
    wait_until(executor, lambda: executor.check().ok)

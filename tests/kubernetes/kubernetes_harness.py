"""Build Kubernetes executors for tests, and the attempts to run on them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiException

from container_manager.executors.base import Executor, LaunchSpec, Unavailable
from container_manager.executors.kubernetes import KubernetesExecutor
from container_manager.executors.kubernetes.kubernetes_options import kubernetes_options
from container_manager.executors.kubernetes.labels import object_name
from container_manager.jobs.container_request import ContainerRequest
from container_manager.testing.conformance import Harness, job_fields, new_key, wait_until

from .cluster_under_test import ClusterUnderTest

_ROLE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "role.yaml"


def is_away(executor: Executor) -> bool:
    try:
        executor.observe()
    except Unavailable:
        return True
    return False


def await_lists(executor: Executor) -> None:
    """Return once the cluster has been listed anew: whatever was cut before now makes no question fail any more."""
    since = time.monotonic()

    def are_listed() -> bool:
        try:
            return executor.observe().as_of > since
        except Unavailable:
            return False

    wait_until(executor, are_listed)


def shipped_rules() -> list[dict[str, Any]]:
    """Return the rules of the Role that is shipped for workers."""
    documents = yaml.safe_load_all(_ROLE.read_text(encoding="utf-8"))
    return next(each["rules"] for each in documents if each and each["kind"] == "Role")


class KubernetesHarness(Harness):
    """Executors of one installation of its own, under exactly the rights of the shipped Role.

    Scripts write to a folder of this machine, which is a volume of the namespace: its nodes are on this machine.
    """

    def __init__(self, cluster: ClusterUnderTest, namespace: str, folder: Path, **options: Any) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.install = f"test-{uuid.uuid4().hex[:12]}"
        self._effects = folder / "effects"
        self._effects.mkdir()
        # For the jobs' own user.
        self._effects.chmod(0o777)
        for parent in (folder, *folder.parents):
            if not parent.stat().st_mode & 0o001:
                parent.chmod(0o755)
        kubeconfig = folder / "worker.kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig_of(namespace, shipped_rules()), encoding="utf-8")
        self._volumes: list[str] = []
        self._claim("effects", self._effects)
        self.options: dict[str, Any] = {
            "kubeconfig": str(kubeconfig),
            "namespace": namespace,
            "images": ["*"],
            "volumes": {"effects": {"claim": "effects", "read_only": False}},
            **options,
        }
        self._executors: list[KubernetesExecutor] = []

    def executor(self, **options: Any) -> KubernetesExecutor:
        """Return a new executor, which is closed after the test."""
        made = KubernetesExecutor(kubernetes_options({**self.options, **options}), install=self.install)
        self._executors.append(made)
        return made

    def spec_without_volumes(self, script: str, **fields: Any) -> LaunchSpec:
        """Return what a launch with a short limit needs.

        A node may ask for a claim before the API server lets it, and its kubelet tries again only after ten seconds.
        """
        return self.spec(script, container={"volumes": {}}, **fields)

    def spec(self, script: str, **fields: Any) -> LaunchSpec:
        environment = {"EFFECTS": "/effects", **fields.pop("environment", {})}
        asked = fields.pop("container", {})
        container = ContainerRequest(**{"volumes": {"effects": "/effects"}, **asked})
        asked_of_it, rest = job_fields({"image": self.cluster.image, **fields})
        return LaunchSpec(
            **{"key": new_key(), "argv": ("sh", "-c", script), **rest},
            job=asked_of_it,
            environment=environment,
            container=container,
        )

    def effects(self) -> Path:
        return self._effects

    def secret_folders(self, key: str) -> list[Path]:
        """Return the attempt's Secrets: the kubelet makes the folders of these, and removes them with the pod."""
        found = self.cluster.core.list_namespaced_secret(self.namespace).items
        return [Path(each.metadata.name) for each in found if each.metadata.name == object_name(key)]

    def job(self, key: str) -> Any:
        """Return the Job of an attempt, or None."""
        try:
            return self.cluster.batch.read_namespaced_job(object_name(key), self.namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def pods(self, key: str) -> list[Any]:
        """Return the pods of an attempt."""
        selector = f"batch.kubernetes.io/job-name={object_name(key)}"
        found: list[Any] = self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return found

    def clean_up(self) -> None:
        for executor in self._executors:
            executor.close()
        for name in self._volumes:
            self.cluster.core.delete_persistent_volume(name)

    def _claim(self, name: str, folder: Path) -> None:
        """Have a claim of this name in the namespace for a folder of this machine."""
        self._volumes.append(self.cluster.claim_folder(self.namespace, name, folder))

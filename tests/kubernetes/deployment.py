"""The manifests of `deploy/kubernetes`, as the API takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .cluster_under_test import ClusterUnderTest

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
# Where its workers run, and their jobs.
WORKERS_NAMESPACE, JOBS_NAMESPACE = "container-manager", "container-manager-jobs"
# By their kinds: which of the client's APIs has them, and what it calls them.
_APIS = {
    "Namespace": ("CoreV1Api", "namespace"),
    "ServiceAccount": ("CoreV1Api", "namespaced_service_account"),
    "ConfigMap": ("CoreV1Api", "namespaced_config_map"),
    "Role": ("RbacAuthorizationV1Api", "namespaced_role"),
    "RoleBinding": ("RbacAuthorizationV1Api", "namespaced_role_binding"),
    "NetworkPolicy": ("NetworkingV1Api", "namespaced_network_policy"),
    "Job": ("BatchV1Api", "namespaced_job"),
    "Deployment": ("AppsV1Api", "namespaced_deployment"),
    "PodDisruptionBudget": ("PolicyV1Api", "namespaced_pod_disruption_budget"),
}


def resources() -> list[str]:
    """Return the files that the kustomization lists, in its order."""
    return list(yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["resources"])


def manifests() -> Iterator[dict[str, Any]]:
    """Yield all objects."""
    for name in resources():
        yield from yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))


def manifest(kind: str, *, namespace: str | None = None) -> dict[str, Any]:
    """Return the one object of a kind, in a namespace where there are several."""
    [found] = [
        each for each in manifests() if each["kind"] == kind and namespace in (None, each["metadata"].get("namespace"))
    ]
    return found


def create(cluster: ClusterUnderTest, found: dict[str, Any], **options: str) -> Any:
    """Create an object as it is, with unknown and doubled fields as errors; return the server's warnings."""
    import kubernetes.client

    api, name = _APIS[found["kind"]]
    call = getattr(getattr(kubernetes.client, api)(cluster.client), f"create_{name}_with_http_info")
    namespace = found["metadata"].get("namespace")
    _, _, headers = call(*([namespace] if namespace else []), found, field_validation="Strict", **options)
    return headers.get("Warning")


@contextmanager
def namespaces(cluster: ClusterUnderTest) -> Iterator[None]:
    """Have the deployment's namespaces, for one test at a time; they are gone when it is over."""
    ours = [found for found in manifests() if found["kind"] == "Namespace"]
    names = {found["metadata"]["name"] for found in ours}
    try:
        for found in ours:
            create(cluster, found)
        yield
    finally:
        there = names.intersection(_namespaces(cluster))
        for name in there:
            cluster.delete_namespace(name)
        cluster.wait_for(lambda: not names.intersection(_namespaces(cluster)))


def _namespaces(cluster: ClusterUnderTest) -> set[str]:
    return {each.metadata.name for each in cluster.core.list_namespace().items}

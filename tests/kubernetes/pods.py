"""Pods that tests of the cluster itself run, under the Pod Security Standard "restricted"."""

from __future__ import annotations

from typing import Any

from .cluster_under_test import ClusterUnderTest

_RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
_RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod(cluster: ClusterUnderTest, name: str, script: str, *, node: str = "", **fields: Any) -> dict[str, Any]:
    """Return a pod that runs a script of the shell once, on a node if one is named; ``fields`` are its container's."""
    container = {
        "name": "main",
        "image": cluster.image,
        "command": ["sh", "-c", script],
        "securityContext": _RESTRICTED_CONTAINER,
        **fields,
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": _RESTRICTED_POD,
        "containers": [container],
        **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
    }
    return {"metadata": {"name": name}, "spec": spec}


def node_report(at: str) -> list[dict[str, Any]]:
    """Return what a pod's metadata say of who has written it, if its node has reported last at this time.

    The API server writes that, by its own clock.
    """
    fields = {"f:status": {"f:containerStatuses": {}, "f:phase": {}}}
    return [
        {"manager": "kube-controller-manager", "time": "2001-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}},
        {"manager": "kubelet", "operation": "Update", "subresource": "status", "time": at, "fieldsV1": fields},
    ]


def container_state(cluster: ClusterUnderTest, namespace: str, name: str) -> Any:
    """Return the state of a pod's container, or None where it has none yet."""
    statuses = cluster.core.read_namespaced_pod(name, namespace).status.container_statuses
    return statuses[0].state if statuses else None


def run_pod(cluster: ClusterUnderTest, namespace: str, described: dict[str, Any]) -> Any:
    """Create a pod; return how its container has ended, as its ``terminated`` state."""
    name = described["metadata"]["name"]
    cluster.core.create_namespaced_pod(namespace, described)
    return cluster.wait_for(lambda: getattr(container_state(cluster, namespace, name), "terminated", None))

"""The cluster that the tests run on: their own, whose nodes they have in hand, or one that KUBECONFIG names."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..polling import eventually
from . import images
from .control import ClusterControl, api_client
from .control_plane import kubeconfig

_PAUSE_SECONDS = 0.1
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
# An image with a shell, for a cluster that pulls its images.
_PULLED_IMAGE = "docker.io/library/busybox:1.37"


@dataclass(frozen=True, kw_only=True)
class ClusterUnderTest:
    """A cluster by its administrator's kubeconfig. ``control`` is None where the tests have no hand on its parts."""

    kubeconfig: Path
    control: ClusterControl | None

    @classmethod
    def found(cls) -> ClusterUnderTest | None:
        """Return the one that the environment names, or None."""
        if path := os.environ.get("CM_TEST_KUBERNETES"):
            control = ClusterControl(Path(os.environ["CM_TEST_KUBERNETES_FOLDER"]))
            return cls(kubeconfig=Path(path), control=control)
        if path := os.environ.get("KUBECONFIG"):
            return cls(kubeconfig=Path(path), control=None)
        return None

    @property
    def has_nodes_in_hand(self) -> bool:
        """Whether the tests can end and start its parts."""
        return self.control is not None

    @property
    def image(self) -> str:
        """An image with a busybox: one that its nodes have, or can pull (CM_TEST_KUBERNETES_IMAGE names another)."""
        return images.IMAGE if self.control else os.environ.get("CM_TEST_KUBERNETES_IMAGE", _PULLED_IMAGE)

    @cached_property
    def client(self) -> Any:
        """The official client of the administrator."""
        return api_client(self.kubeconfig)

    @cached_property
    def core(self) -> Any:
        """The API of pods, events, secrets and so on."""
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self.client)

    @cached_property
    def batch(self) -> Any:
        """The API of Jobs."""
        from kubernetes.client import BatchV1Api

        return BatchV1Api(self.client)

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition of the cluster is true; return its value."""
        # Between two questions the API server has other things to do.
        pause: Callable[[float], Any] = time.sleep
        return eventually(lambda: condition() or pause(_PAUSE_SECONDS))

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """Have a fresh namespace in which the Pod Security Standard "restricted" holds. Its end is not waited for."""
        name = f"cm-test-{uuid.uuid4().hex[:12]}"
        self.core.create_namespace({"metadata": {"name": name, "labels": _RESTRICTED}})
        try:
            # Without it no pod is let in.
            self.wait_for(lambda: self.core.list_namespaced_service_account(name).items)
            yield name
        finally:
            self.delete_namespace(name)

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with all that is in it. Its end is not waited for."""
        from kubernetes.client import ApiException

        self.core.delete_namespace(name)
        for job in self.batch.list_namespaced_job(name).items:
            # A Job that its worker has not removed would keep the namespace for ever.
            if job.metadata.finalizers:
                with suppress(ApiException):
                    self.batch.patch_namespaced_job(job.metadata.name, name, {"metadata": {"finalizers": None}})
        for pod in self.core.list_namespaced_pod(name).items:
            # Nobody waits for what still runs: what it would take for its end, the next test would lack.
            with suppress(ApiException):
                self.core.delete_namespaced_pod(pod.metadata.name, name, grace_period_seconds=0)

    def claim_folder(self, namespace: str, name: str, folder: Path) -> str:
        """Have a claim of this name for a folder of this machine; return its volume, which is the caller's to delete."""
        core, size, volume = self.core, {"storage": "1Gi"}, f"{namespace}-{name}"
        common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        core.create_persistent_volume(
            {
                "metadata": {"name": volume},
                "spec": {
                    **common,
                    "capacity": size,
                    "hostPath": {"path": str(folder)},
                    "claimRef": {"namespace": namespace, "name": name},
                },
            }
        )
        claim = {
            "metadata": {"name": name},
            "spec": {**common, "resources": {"requests": size}, "volumeName": volume},
        }
        core.create_namespaced_persistent_volume_claim(namespace, claim)
        return volume

    def kubeconfig_of(self, namespace: str, rules: list[dict[str, Any]], *, name: str = "worker") -> str:
        """Make a service account that may do what the rules of a Role say; return its kubeconfig, valid for an hour."""
        from kubernetes.client import RbacAuthorizationV1Api

        rights: Any = RbacAuthorizationV1Api(self.client)
        metadata = {"metadata": {"name": name}}
        self.core.create_namespaced_service_account(namespace, metadata)
        rights.create_namespaced_role(namespace, {**metadata, "rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
        rights.create_namespaced_role_binding(namespace, {**metadata, "roleRef": role, "subjects": subjects})
        token = self.core.create_namespaced_service_account_token(
            name, namespace, {"spec": {"expirationSeconds": 3600}}
        )
        settings = self.client.configuration
        return kubeconfig(settings.host, Path(settings.ssl_ca_cert), token.status.token, namespace=namespace)

    @contextmanager
    def held(self, *, alone: bool) -> Iterator[None]:
        """Keep the other processes' tests from disturbing this one: with ``alone`` none of them runs meanwhile."""
        if self.control is None:
            yield
            return
        with ExitStack() as stack:
            turn, use = (
                stack.enter_context((self.control.folder / f"{name}.lock").open("a")) for name in ("turn", "use")
            )
            # Whoever waits to be alone has the turn: else those that come after would be let in before.
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(use, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)
            yield

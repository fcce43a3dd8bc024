"""An installation whose workers are those of `deploy/kubernetes`, in pods of their own, as an overlay would have them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from container_manager.executors.base import ExecutorError
from container_manager.executors.kubernetes.cluster_answers import ApiStream
from container_manager.executors.kubernetes.cluster_api import ClusterApi
from container_manager.executors.kubernetes.kubernetes_options import kubernetes_options

from ..task_surroundings import folder_of_database, folders, open_database, variables
from ..workers import eventually
from .api_service import api_service
from .cluster_site import BACKEND, LEASE_SECONDS, ClusterSite
from .cluster_under_test import ClusterUnderTest
from .deployment import JOBS_NAMESPACE, WORKERS_NAMESPACE, create, manifest, manifests, namespaces

NAME = "container-manager-worker"
# What is on each of the pods of workers.
_SELECTOR = f"app.kubernetes.io/name={NAME}"
# Containers start one after the other, on a machine that does other things too.
ROLLOUT_SECONDS = 600


class DeployedSite(ClusterSite):
    """Jobs of one installation whose workers are in pods, under the service account and the Role that are shipped.

    What the overlay changes of the manifests: the image, for which this host's interpreter and project are mounted
    into the tests' own; the settings; and the variable PATH. Each worker's log is appended to ``log``.
    """

    def __init__(self, cluster: ClusterUnderTest, folder: Path) -> None:
        super().__init__(cluster, JOBS_NAMESPACE, folder)
        self.log.touch()
        self._mounted = folders()
        for name, path in self._mounted.items():
            self._volumes.append(cluster.claim_folder(WORKERS_NAMESPACE, name, Path(path)))

    def executors_setting(self, kubeconfig: Path | None, more: Mapping[str, Any]) -> dict[str, Any]:
        # In a pod the service account is the way to the cluster.
        options = {name: value for name, value in self.options.items() if name != "kubeconfig"}
        return {"kubernetes": {"BACKEND": BACKEND, "OPTIONS": options}}

    def deploy(self) -> None:
        """Create all that the kustomization lists; return when the database is migrated and the workers are ready."""
        secret = {"metadata": {"name": NAME}, "stringData": {"CM_WORKER_CONNECTION": "{}"}}
        self.cluster.core.create_namespaced_secret(WORKERS_NAMESPACE, secret)
        for found in manifests():
            if found["kind"] != "Namespace":
                create(self.cluster, self._overlaid(found))
        self.cluster.wait_for(self._is_migrated)
        self.await_rolled_out()

    def _is_migrated(self) -> bool:
        migration = manifest("Job")["metadata"]
        return bool(self.cluster.batch.read_namespaced_job(migration["name"], WORKERS_NAMESPACE).status.succeeded)

    def _overlaid(self, found: dict[str, Any]) -> dict[str, Any]:
        if found["kind"] == "ConfigMap":
            found["data"] = variables(self.settings(), lease_seconds=LEASE_SECONDS)
        elif found["kind"] in ("Deployment", "Job"):
            spec = found["spec"]["template"]["spec"]
            [container] = spec["containers"]
            container["image"] = self.cluster.image
            path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
            container["env"] = [{"name": "PATH", "value": path}]
            written = folder_of_database()
            spec["volumes"] = [
                *spec.get("volumes", ()),
                # A folder of the image that is root's alone hides what is mounted below it.
                {"name": "home", "emptyDir": {"sizeLimit": "1Mi"}},
                *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name in self._mounted),
            ]
            container["volumeMounts"] = [
                *container.get("volumeMounts", ()),
                {"name": "home", "mountPath": "/root"},
                *(
                    {"name": name, "mountPath": path, "readOnly": path != written}
                    for name, path in self._mounted.items()
                ),
            ]
        return found

    @property
    def apps(self) -> Any:
        """The API of Deployments."""
        from kubernetes.client import AppsV1Api

        return AppsV1Api(self.cluster.client)

    def is_rolled_out(self) -> bool:
        """Tell what `kubectl rollout status` waits for."""
        found = self.apps.read_namespaced_deployment(NAME, WORKERS_NAMESPACE)
        wanted, status = found.spec.replicas, found.status
        conditions = {each.type: each for each in status.conditions or ()}
        progressing = conditions.get("Progressing")
        assert progressing is None or progressing.reason != "ProgressDeadlineExceeded", progressing
        counts = (status.updated_replicas, status.replicas, status.available_replicas)
        return (status.observed_generation or 0) >= found.metadata.generation and counts == (wanted, wanted, wanted)

    def await_rolled_out(self) -> None:
        try:
            eventually(self.is_rolled_out, seconds=ROLLOUT_SECONDS)
        except AssertionError as error:
            pods = self.cluster.core.list_namespaced_pod(WORKERS_NAMESPACE).items
            events = self.cluster.core.list_namespaced_event(WORKERS_NAMESPACE).items
            said = [f"{each.involved_object.name} {each.reason}: {each.message}" for each in events]
            states = [f"{pod.metadata.name} {pod.status.container_statuses}" for pod in pods]
            error.add_note("\n".join([*states, *said, self.log.read_text()[-4000:]]))
            raise

    def roll(self) -> None:
        """Begin a rolling update, as `kubectl rollout restart` does."""
        changed = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
        self.apps.patch_namespaced_deployment(NAME, WORKERS_NAMESPACE, {"spec": {"template": changed}})

    def stop(self) -> None:
        """Have no workers any more: they would go on with the next test's jobs."""
        from kubernetes.client import ApiException

        with suppress(ApiException):
            self.apps.patch_namespaced_deployment_scale(NAME, WORKERS_NAMESPACE, {"spec": {"replicas": 0}})
        self.cluster.wait_for(lambda: not self._pods(lambda _pod: True))

    def worker_pods(self) -> list[str]:
        """Return the names of the pods of workers that are not being deleted."""
        return self._pods(lambda pod: pod.metadata.deletion_timestamp is None)

    def await_end_of(self, pods: list[str]) -> None:
        """Return when none of these pods of workers is there any more."""
        self.cluster.wait_for(lambda: not self._pods(lambda pod: pod.metadata.name in pods))

    def _pods(self, chosen: Callable[[Any], bool]) -> list[str]:
        found = self.cluster.core.list_namespaced_pod(WORKERS_NAMESPACE, label_selector=_SELECTOR).items
        return sorted(pod.metadata.name for pod in found if chosen(pod))


class PodHistory:
    """All states of the workers' pods since now, by their names, each as the API's JSON; and their logs in a file."""

    def __init__(self, cluster: ClusterUnderTest, log: Path) -> None:
        self._log, self._is_closed = log, False
        options = {"kubeconfig": str(cluster.kubeconfig), "namespace": WORKERS_NAMESPACE}
        self._api = ClusterApi(kubernetes_options(options))
        self.states: dict[str, list[dict[str, Any]]] = {}
        found, version = self._api.list("pods", _SELECTOR)
        self._streams: list[ApiStream] = [self._api.watch("pods", _SELECTOR, version, seconds=3600.0)]
        self._threads: list[threading.Thread] = []
        for pod in found:
            self._take(pod)
        self._start(self._follow, self._streams[0])

    def close(self) -> None:
        self._is_closed = True
        for stream in list(self._streams):
            stream.interrupt()
        for thread in list(self._threads):
            thread.join()
        self._api.close()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _follow(self, stream: ApiStream) -> None:
        with stream, suppress(ExecutorError):
            for event in stream.lines():
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    self._take(event["object"])

    def _take(self, pod: dict[str, Any]) -> None:
        states = self.states.setdefault(pod["metadata"]["name"], [])
        had_run = any(_container(state) for state in states)
        states.append(pod)
        if _container(pod) and not had_run:
            self._start(self._keep_log, pod["metadata"]["name"])

    def _keep_log(self, pod: str) -> None:
        with (
            suppress(ExecutorError),
            self._api.log(pod, "worker", follow=True, since=None, silence_seconds=None) as log,
        ):
            self._streams.append(log)
            for piece in () if self._is_closed else log.pieces():
                with self._log.open("ab") as file:
                    file.write(piece)

    def end_of(self, pod: str) -> dict[str, Any]:
        """Return how the container of a pod has ended, as its ``terminated`` state; empty if it has not."""
        ends = [_container(state).get("terminated") for state in self.states[pod]]
        return next((end for end in ends if end), {})

    def killed_at(self, pod: str) -> str:
        """Return when a pod that was deleted would have been killed."""
        return next(at for state in self.states[pod] if (at := state["metadata"].get("deletionTimestamp")))

    def was_ready(self, pod: str) -> bool:
        """Tell whether a pod was ready, by its readiness probe, before it was deleted."""
        conditions = [each for state in self.states[pod] for each in state["status"].get("conditions", ())]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def restarts(self) -> int:
        """Return how often a worker's container was started again."""
        counts = [_status(state).get("restartCount", 0) for states in self.states.values() for state in states]
        return max(counts, default=0)


def _status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(pod["status"].get("containerStatuses") or ()), {})


def _container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a pod's container once it has been started; else empty."""
    state: Mapping[str, Any] = _status(pod).get("state") or {}
    return {} if "waiting" in state else state


@contextmanager
def deployed_site(cluster: ClusterUnderTest, folder: Path) -> Iterator[tuple[DeployedSite, PodHistory]]:
    """Have the workers deployed and ready, and the history of their pods; nothing of it is left."""
    # A pod's program is no root.
    open_database()
    with ExitStack() as stack:
        stack.enter_context(api_service(cluster.client.configuration.host))
        # The next deployment has volumes of the same names. They go once their claims are gone.
        stack.callback(cluster.wait_for, lambda: not _volumes(cluster))
        stack.enter_context(namespaces(cluster))
        site = DeployedSite(cluster, folder)
        stack.callback(site.clean_up)
        history = PodHistory(cluster, site.log)
        stack.callback(history.close)
        stack.callback(site.stop)
        site.deploy()
        yield site, history


def _volumes(cluster: ClusterUnderTest) -> list[str]:
    """Return the volumes whose claims are in the deployment's namespaces."""
    found = cluster.core.list_persistent_volume().items
    ours = (WORKERS_NAMESPACE, JOBS_NAMESPACE)
    return [each.metadata.name for each in found if each.spec.claim_ref and each.spec.claim_ref.namespace in ours]

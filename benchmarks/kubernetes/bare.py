"""What a hand-written program does: the official client, and a thread for each Job that runs."""

from __future__ import annotations

import itertools
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.kubernetes.images import IMAGE

_numbers = itertools.count()
# Longer than a Job takes here.
_WATCH_SECONDS = 120


class BareClient:
    """Runs Jobs like the worker's without a queue, a record, their output, or anyone to look after them."""

    def __init__(self, kubeconfig: Path, namespace: str, *, most_threads: int) -> None:
        from kubernetes import client, config

        from container_manager.conf import app_settings
        from container_manager.executors.kubernetes.kubernetes_options import kubernetes_options

        settings = client.Configuration()
        settings.connection_pool_maxsize = most_threads
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self._jobs: Any = client.BatchV1Api(client.ApiClient(settings))
        self._namespace = namespace
        self._options = kubernetes_options(app_settings().executors["default"]["OPTIONS"])

    def run_many(self, command: str, *, count: int, at_once: int) -> None:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(self._run, [command] * count))

    def _run(self, command: str) -> None:
        """Create a Job, watch it to its end, and delete it."""
        manifest = self._manifest(command)
        name = manifest["metadata"]["name"]
        self._jobs.create_namespaced_job(self._namespace, manifest)
        self._await_end(name)
        self._jobs.delete_namespaced_job(name, self._namespace, propagation_policy="Foreground")

    def _manifest(self, command: str) -> dict[str, Any]:
        from container_manager.executors.base import LaunchSpec
        from container_manager.executors.kubernetes.job_manifests import job_manifest
        from container_manager.jobs.spec import JobSpec

        spec = LaunchSpec(key=f"bare-{next(_numbers)}-1", argv=tuple(shlex.split(command)), job=JobSpec(image=IMAGE))
        manifest = job_manifest(spec, self._options, install="bare")
        # Such a program has none.
        del manifest["metadata"]["finalizers"]
        return manifest

    def _await_end(self, name: str) -> None:
        from kubernetes import watch

        stream = watch.Watch()
        listed = self._jobs.list_namespaced_job
        for event in stream.stream(
            listed, self._namespace, field_selector=f"metadata.name={name}", timeout_seconds=_WATCH_SECONDS
        ):
            conditions = event["object"].status.conditions or ()
            if any(each.type == "Failed" and each.status == "True" for each in conditions):
                raise RuntimeError(f"The Job {name} failed.")
            if any(each.type == "Complete" and each.status == "True" for each in conditions):
                return
        raise RuntimeError(f"The Job {name} did not end within {_WATCH_SECONDS} s.")

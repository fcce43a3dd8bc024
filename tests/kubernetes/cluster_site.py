"""An installation with its own worker processes in a namespace of a real cluster, and the effects of its jobs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.utils import timezone

from container_manager import queue
from container_manager.executors.kubernetes.labels import install_selector, object_name
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker
from container_manager.store.consistency import examine

from ..workers import eventually, worker
from .cluster_under_test import ClusterUnderTest
from .control_plane import NODES
from .kubernetes_harness import KubernetesHarness

# On a machine that runs a whole cluster, a heartbeat may come late.
LEASE_SECONDS = 15.0
# Record when a run begins and ends.
BEGUN, DONE = (
    'echo "begin $CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/runs',
    'echo "end $CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/runs',
)
BACKEND = "container_manager.executors.kubernetes.KubernetesExecutor"


class ClusterSite(KubernetesHarness):
    """Jobs of one installation. Scripts find $EFFECTS, a folder that the tests see, and wait there for a `go`.

    The names of the nodes are pools of nodes, which jobs may ask for.
    """

    def __init__(
        self,
        cluster: ClusterUnderTest,
        namespace: str,
        folder: Path,
        *,
        limits: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        pools = {name: {"node_selector": {"kubernetes.io/hostname": name}} for name in NODES}
        super().__init__(cluster, namespace, folder, node_pools=pools, **options)
        self._limits = limits
        self.log = folder / "log"

    def settings(
        self, *, kubeconfig: Path | None = None, options: Mapping[str, Any] | None = None, **settings: Any
    ) -> str:
        executors = self.executors_setting(kubeconfig, options or {})
        return json.dumps({"INSTALL": self.install, "EXECUTORS": executors, **settings})

    def executors_setting(self, kubeconfig: Path | None, more: Mapping[str, Any]) -> dict[str, Any]:
        options = {**self.options, **({"kubeconfig": str(kubeconfig)} if kubeconfig else {}), **more}
        return {"kubernetes": {"BACKEND": BACKEND, "OPTIONS": options, "LIMITS": self._limits or {}}}

    @contextmanager
    def worker(
        self,
        *arguments: str,
        kubeconfig: Path | None = None,
        options: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        lease_seconds: float = LEASE_SECONDS,
        **settings: Any,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker, whose way to the cluster may be another one; ``options`` and ``variables`` are its own."""
        stored = self.settings(kubeconfig=kubeconfig, options=options, **settings)
        environment = {**(variables or {}), "CM_WORKER_SETTINGS": stored}
        with worker(*arguments, log=self.log, lease_seconds=lease_seconds, **environment) as process:
            yield process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a worker, and let its lease be over at once: others need not wait for that."""
        process.kill()
        process.wait()
        Worker.objects.filter(pid=process.pid).update(lease_expires_at=timezone.now() - timedelta(hours=1))

    def enqueue(self, script: str, *, node: str = "", **fields: Any) -> ContainerJob:
        """Queue a shell script, for a node if one is named."""
        container = {**({"node_pool": node} if node else {}), **fields.pop("container", {})}
        return self.enqueue_command(shlex.join(["sh", "-c", script]), container=container, **fields)

    def enqueue_command(self, command: str, **fields: Any) -> ContainerJob:
        container = {"volumes": {"effects": "/effects"}, **fields.pop("container", {})}
        environment = {"EFFECTS": "/effects", **fields.pop("environment", {})}
        fields = {
            "image": self.cluster.image,
            "executor": "kubernetes",
            "grace_seconds": 1,
            "max_retries": 0,
            **fields,
        }
        return queue.enqueue(command=command, environment=environment, container=container, **fields)

    def start(self, script: str, **fields: Any) -> ContainerJob:
        """Queue a job whose script begins with BEGUN, and return once it runs and the worker has noted it."""
        before = len(self.runs())
        job = self.enqueue(script, **fields)
        try:
            eventually(lambda: len(self.runs()) > before)
            eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
        except AssertionError as error:
            error.add_note(self._story(job))
            raise
        return job

    def cancel(self, job: ContainerJob, **how: Any) -> None:
        """Cancel a job, however far it has come by now."""
        job.refresh_from_db()
        queue.cancel(job, **how)

    def surroundings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that make a job this installation's, whatever else it asks for."""
        environment = {**fields.get("environment", {}), "EFFECTS": "/effects"}
        return {"executor": "kubernetes", "environment": environment}

    def gate(self, name: str = "go") -> Path:
        """Return a pipe. A script waits with ``read word < $EFFECTS/go`` until it is opened here."""
        path = self._effects / name
        os.mkfifo(path)
        path.chmod(0o666)
        return path

    def runs(self) -> list[str]:
        """Return what BEGUN and DONE have written."""
        path = self._effects / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def await_runs(self, *expected: str) -> None:
        eventually(lambda: self.runs() == list(expected))

    def await_status(self, job: ContainerJob, *statuses: str, attempts: bool = True) -> ContainerJob:
        """Return a job once it is in one of these, and all its attempts are closed unless told otherwise."""
        try:
            eventually(lambda: ContainerJob.objects.filter(pk=job.pk, status__in=statuses).exists())
            if attempts:
                eventually(lambda: not JobAttempt.objects.filter(job=job, finished_at=None).exists())
        except AssertionError as error:
            error.add_note(self._story(job))
            raise
        job.refresh_from_db()
        return job

    def await_wait(self, job: ContainerJob, words: str) -> None:
        """Return once a worker says that the launch of a job waits for something with these words."""
        open_ones = JobAttempt.objects.filter(job=job, finished_at=None)
        try:
            eventually(lambda: open_ones.filter(waiting_for__contains=words).exists())
        except AssertionError as error:
            error.add_note(self._story(job))
            raise

    def _story(self, job: ContainerJob) -> str:
        job.refresh_from_db()
        attempts = list(job.attempts.order_by("number").values())
        system = b"".join(bytes(row.data) for row in JobLog.objects.filter(attempt__job=job, stream="system"))
        return (
            f"{job.status}: {job.last_error}\n{attempts}\n{system.decode()}\n{self.objects()}\n"
            f"{self.log.read_text()[-4000:]}"
        )

    def key_of(self, job: ContainerJob, attempt: int = 1) -> str:
        """Return the key of an attempt."""
        return f"cm-{self.install}-{job.pk.hex}-{attempt}"

    def pod_of(self, job: ContainerJob, attempt: int = 1) -> Any:
        """Return the one pod of an attempt, once it is there."""

        def found() -> Any:
            pods = self.pods(self.key_of(job, attempt))
            assert len(pods) < 2, [pod.metadata.name for pod in pods]
            return pods[0] if pods else None

        return self.cluster.wait_for(found)

    def job_name(self, job: ContainerJob, attempt: int = 1) -> str:
        """Return the name of an attempt's Job."""
        return object_name(self.key_of(job, attempt))

    def objects(self) -> list[str]:
        """Return what the cluster has of this installation: kind, name and state of each object."""
        core, selector = self.cluster.core, install_selector(self.install)
        options = {"label_selector": selector}
        jobs = self.cluster.batch.list_namespaced_job(self.namespace, **options).items
        pods = core.list_namespaced_pod(self.namespace, **options).items
        secrets = core.list_namespaced_secret(self.namespace, **options).items
        return [
            *(f"Job {job.metadata.name} {job.metadata.finalizers or ''}" for job in jobs),
            *(f"Pod {pod.metadata.name} {pod.status.phase} {pod.metadata.deletion_timestamp or ''}" for pod in pods),
            *(f"Secret {secret.metadata.name}" for secret in secrets),
        ]

    def assert_clean(self) -> None:
        """Assert that no object is left, after a while, no job lies, and no worker stumbled."""
        try:
            self.cluster.wait_for(lambda: self.objects() == [])
        except AssertionError as error:
            error.add_note(f"{self.objects()}\n{self.log.read_text()[-4000:]}")
            raise
        assert examine().problems == []
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


def attempts_of(job: ContainerJob) -> list[tuple[int, int | None, str]]:
    """Return number, exit code and reason of each attempt."""
    return list(job.attempts.order_by("number").values_list("number", "exit_code", "reason"))


def output_of(job: ContainerJob, stream: str = "stdout", *, attempt: int = 1) -> bytes:
    rows = JobLog.objects.filter(attempt__job=job, attempt__number=attempt, stream=stream).order_by("sequence")
    return b"".join(bytes(row.data) for row in rows)


def notes_on_output(job: ContainerJob) -> list[str]:
    """Return what a first attempt's log says of its output, such as a gap; not what its launch waited for."""
    said = output_of(job, "system").decode().splitlines()
    return [line for line in said if not line.startswith(("Waits for ", "The cluster says: "))]

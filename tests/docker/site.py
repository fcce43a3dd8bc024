"""An installation with its own worker processes on a real daemon, and the effects of its jobs."""

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
from container_manager.models import ContainerJob, JobAttempt, JobLog, Worker
from container_manager.store.consistency import examine

from ..workers import eventually, worker
from .docker_harness import DockerHarness
from .image import IMAGE

LEASE_SECONDS = 3.0
# Record when a run begins and ends.
BEGUN, DONE = (
    'echo "begin $CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/runs',
    'echo "end $CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/runs',
)


class Site(DockerHarness):
    """Jobs of one installation. Scripts find $EFFECTS, a folder that the tests see, and wait there for a `go`."""

    def __init__(self, url: str, folder: Path, *, limits: Mapping[str, int] | None = None, **options: Any) -> None:
        super().__init__(url, folder, **options)
        self._limits = limits
        self.log = folder / "log"

    def settings(self, *, url: str | None = None, **settings: Any) -> str:
        return json.dumps({"INSTALL": self.install, "EXECUTORS": self.executors_setting(url), **settings})

    def executors_setting(self, url: str | None = None) -> dict[str, Any]:
        options = {**self.options, "base_url": url or self.url}
        backend = "container_manager.executors.docker.DockerExecutor"
        return {"docker": {"BACKEND": backend, "OPTIONS": options, "LIMITS": self._limits or {}}}

    @contextmanager
    def worker(
        self, *options: str, url: str | None = None, lease_seconds: float = LEASE_SECONDS, **settings: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker, whose way to the daemon may be another one."""
        environment = {"CM_WORKER_SETTINGS": self.settings(url=url, **settings)}
        with worker(*options, log=self.log, lease_seconds=lease_seconds, **environment) as process:
            yield process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a worker, and let its lease be over at once: others need not wait for that."""
        process.kill()
        process.wait()
        Worker.objects.filter(pid=process.pid).update(lease_expires_at=timezone.now() - timedelta(hours=1))

    def enqueue(self, script: str, **fields: Any) -> ContainerJob:
        """Queue a shell script."""
        return self.enqueue_command(shlex.join(["sh", "-c", script]), **fields)

    def enqueue_command(self, command: str, **fields: Any) -> ContainerJob:
        container = {"volumes": {"effects": str(self._effects)}, **fields.pop("container", {})}
        environment = {"EFFECTS": str(self._effects)}
        fields = {"image": IMAGE, "executor": "docker", "grace_seconds": 1, "max_retries": 0, **fields}
        return queue.enqueue(command=command, environment=environment, container=container, **fields)

    def start(self, script: str, **fields: Any) -> ContainerJob:
        """Queue a job whose script begins with BEGUN, and return once it runs and the worker has noted it."""
        before = len(self.runs())
        job = self.enqueue(script, **fields)
        eventually(lambda: len(self.runs()) > before)
        eventually(lambda: JobAttempt.objects.filter(job=job).exclude(handle="").exists())
        return job

    def surroundings(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that make a job this installation's, whatever else it asks for."""
        environment = {**fields.get("environment", {}), "EFFECTS": str(self._effects)}
        return {"executor": "docker", "environment": environment}

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

    def _story(self, job: ContainerJob) -> str:
        job.refresh_from_db()
        attempts = list(job.attempts.order_by("number").values())
        containers = [(each["Names"], each["Status"]) for each in self.containers()]
        return f"{job.status}: {job.last_error}\n{attempts}\n{containers}\n{self.log.read_text()[-4000:]}"

    def said(self, job: ContainerJob) -> bytes:
        """Return what the daemon has of a first attempt's output."""
        output: bytes = self.api.logs(f"cm-{self.install}-{job.pk.hex}-1")
        return output

    def assert_clean(self) -> None:
        """Assert that no container is left, after a while, no job lies, and no worker stumbled."""
        eventually(lambda: self.containers() == [])
        assert examine().problems == []
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


def attempts_of(job: ContainerJob) -> list[tuple[int, int | None, str]]:
    """Return number, exit code and reason of each attempt."""
    return list(job.attempts.order_by("number").values_list("number", "exit_code", "reason"))


def output_of(job: ContainerJob, stream: str = "stdout", *, attempt: int = 1) -> bytes:
    rows = JobLog.objects.filter(attempt__job=job, attempt__number=attempt, stream=stream).order_by("sequence")
    return b"".join(bytes(row.data) for row in rows)

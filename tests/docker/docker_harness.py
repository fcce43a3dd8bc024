"""Build Docker executors for tests, and the attempts to run on them."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError

from container_manager.executors.base import Executor, LaunchSpec, Waiting
from container_manager.executors.docker import DockerExecutor
from container_manager.executors.docker.configuration import INSTALL_LABEL
from container_manager.executors.docker.options import docker_options
from container_manager.jobs.container_request import ContainerRequest
from container_manager.testing.conformance import Harness, job_fields, new_key

from ..executors.secret_folders import secret_folders
from ..polling import eventually
from .image import IMAGE

_PATIENCE_SECONDS = 120


def launch(executor: Executor, spec: LaunchSpec) -> str:
    """Submit an attempt until it waits for no image any more; return its handle."""
    while True:
        try:
            return executor.submit(spec)
        except Waiting as waiting:
            waiting.until.result(_PATIENCE_SECONDS)


class DockerHarness(Harness):
    """Executors of one installation of its own. Scripts write to a folder that is mounted where it is."""

    def __init__(self, url: str, folder: Path, **options: Any) -> None:
        self.url, self.install = url, f"test-{uuid.uuid4().hex[:12]}"
        self._effects = folder / "effects"
        self._effects.mkdir()
        # Without its capabilities, root in a container may not write to what is root's and closed to others.
        self._effects.chmod(0o777)
        self.options = {
            "base_url": url,
            "images": [IMAGE],
            "volumes": {"effects": {"source": str(self._effects), "read_only": False, "allow_root": True}},
            **options,
        }
        self.api = docker.APIClient(url)
        self._executors: list[DockerExecutor] = []

    def executor(self, **options: Any) -> DockerExecutor:
        """Return a new executor, which is closed after the test."""
        made = DockerExecutor(
            docker_options({**self.options, **options}), install=self.install, secrets_directory="/run/secrets"
        )
        self._executors.append(made)
        return made

    def spec(self, script: str, **fields: Any) -> LaunchSpec:
        environment = {"EFFECTS": str(self._effects), **fields.pop("environment", {})}
        asked = fields.pop("container", {})
        container = ContainerRequest(**{"volumes": {"effects": str(self._effects)}, **asked})
        asked_of_it, rest = job_fields({"image": IMAGE, **fields})
        return LaunchSpec(
            **{"key": new_key(), "argv": ("sh", "-c", script), **rest},
            job=asked_of_it,
            environment=environment,
            container=container,
        )

    def effects(self) -> Path:
        return self._effects

    def secret_folders(self, key: str) -> list[Path]:
        return secret_folders(key)

    def containers(self) -> list[dict[str, Any]]:
        """Return what the daemon has of this installation."""
        found: list[dict[str, Any]] = self.api.containers(
            all=True, filters={"label": f"{INSTALL_LABEL}={self.install}"}
        )
        return found

    def clean_up(self) -> None:
        for executor in self._executors:
            executor.close()
        eventually(self._is_empty)
        self.api.close()

    def _is_empty(self) -> bool:
        """Remove all containers; return whether there were none.

        An engine answers with an error where one ends, or is removed by a worker's last request, at that moment.
        """
        found = self.containers()
        for container in found:
            with suppress(APIError):
                self.api.remove_container(container["Id"], force=True, v=True)
        return not found

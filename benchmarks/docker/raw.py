"""What a hand-written program asks of the daemon: the SDK's low-level API, for containers like the worker's."""

from __future__ import annotations

import itertools
import shlex
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import docker
from django.utils.dateparse import parse_datetime

from tests.docker.image import IMAGE

_numbers = itertools.count()


class RawDocker:
    """Runs commands without a queue, a record, or anyone to look after them."""

    def __init__(self, url: str) -> None:
        from container_manager.conf import app_settings
        from container_manager.executors.docker.options import docker_options

        self.api = docker.APIClient(url)
        self._options = docker_options(app_settings().executors["default"]["OPTIONS"])

    def start(self, command: str) -> str:
        """Create and start a container with the same body as the worker's; return its id."""
        from container_manager.executors.base import LaunchSpec
        from container_manager.executors.docker.configuration import container_configuration
        from container_manager.jobs.spec import JobSpec

        spec = LaunchSpec(key=f"raw-{next(_numbers)}", argv=tuple(shlex.split(command)), job=JobSpec(image=IMAGE))
        body = container_configuration(spec, self._options, install="raw")
        container: str = self.api.create_container_from_config(body, name=spec.key)["Id"]
        self.api.start(container)
        return container

    def started_at(self, container: str) -> datetime:
        """Return when the daemon says that it started."""
        started_at: Any = parse_datetime(self.api.inspect_container(container)["State"]["StartedAt"][:26] + "Z")
        return started_at.astimezone(UTC)

    def remove(self, container: str) -> None:
        self.api.remove_container(container, v=True, force=True)

    def run(self, command: str) -> None:
        """Do all of a container's life."""
        container = self.start(command)
        self.api.wait(container)
        self.api.remove_container(container, v=True)

    def run_many(self, command: str, *, count: int, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self.run, [command] * count))

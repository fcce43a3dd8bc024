"""Several daemons are several aliases, each served by the workers that name it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from container_manager.executors.docker.configuration import INSTALL_LABEL

from ..workers import eventually
from .daemon import Daemon
from .site import Site, attempts_of

pytestmark = pytest.mark.django_db(transaction=True)


def running_on(url: str, install: str) -> list[str]:
    """Return the ids of the jobs whose containers run on a daemon."""
    api = docker.APIClient(url)
    try:
        containers = api.containers(filters={"label": f"{INSTALL_LABEL}={install}"})
        return sorted(container["Names"][0].split("-")[-2] for container in containers)
    finally:
        api.close()


@pytest.mark.shows("howto/docker.md#use-several-daemons")
def test_each_daemon_runs_the_jobs_that_name_it(
    docker_url: str, new_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    site = Site(docker_url, tmp_path)
    backend = "container_manager.executors.docker.DockerExecutor"
    urls = {"east": docker_url, "west": new_daemon().url}
    executors: dict[str, Any] = {
        alias: {"BACKEND": backend, "OPTIONS": {**site.options, "base_url": url}} for alias, url in urls.items()
    }
    gate = f"touch $EFFECTS/begun-$CONTAINER_MANAGER_JOB; while [ ! -e {site.effects()}/go ]; do sleep 0.1; done"
    jobs = {alias: [site.enqueue(gate, executor=alias) for _ in range(2)] for alias in executors}
    with site.worker("--slots", "4", "--executor", "east", EXECUTORS=executors):
        for job in jobs["east"]:
            eventually((site.effects() / f"begun-{job.pk}").exists)
        # A container may have begun before its daemon says that it runs.
        eventually(lambda: running_on(urls["east"], site.install) == [job.pk.hex for job in jobs["east"]])
        # Nobody serves the other one yet.
        for job in jobs["west"]:
            job.refresh_from_db()
            assert job.status == "queued"
        with site.worker("--slots", "4", "--executor", "west", EXECUTORS=executors):
            for job in jobs["west"]:
                eventually((site.effects() / f"begun-{job.pk}").exists)
            eventually(lambda: running_on(urls["west"], site.install) == [job.pk.hex for job in jobs["west"]])
            (site.effects() / "go").touch()
            for job in [*jobs["east"], *jobs["west"]]:
                site.await_status(job, "completed")
                assert attempts_of(job) == [(1, 0, "")]
            for url in urls.values():
                eventually(lambda url=url: running_on(url, site.install) == [])
    site.clean_up()

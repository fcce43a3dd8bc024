"""Several daemons are several aliases, each served by the workers that name it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from container_manager.executors.base import Executor, Unavailable
from container_manager.executors.docker.configuration import INSTALL_LABEL
from container_manager.models import Worker
from container_manager.testing.conformance import wait_until

from ..workers import eventually
from .daemon import Daemon
from .proxy import proxy
from .site import BEGUN, DONE, Site, attempts_of

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


@pytest.mark.shows("howto/docker.md#use-several-daemons", "explanation/worker.md#a-worker-is-killed")
def test_two_hosts_with_daemons_of_their_own_under_one_alias_leave_each_others_containers_alone(
    docker_url: str, new_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """As with the local socket on each: the alias says nothing of which daemon has a container."""
    site, other = Site(docker_url, tmp_path), new_daemon().url
    job = site.enqueue(f"{BEGUN}; while [ ! -e $EFFECTS/go ]; do sleep 0.1; done; {DONE}")
    # None of the three may lose its own lease on a busy machine; that of a dead one is watched for half of it.
    lease = {"lease_seconds": 12.0}
    with site.worker("--slots", "1", **lease) as mine:
        site.await_runs("begin 1")
        with site.worker("--slots", "1", url=other, **lease):
            eventually(lambda: "is another engine here than for the workers on" in site.log.read_text())
            site.kill(mine)
            eventually(lambda: not Worker.objects.filter(pid=mine.pid).exists())
            # One after another: the other worker has had enough chances to look.
            for _ in range(3):
                site.await_status(site.enqueue("true"), "completed")
            assert (attempts_of(job), running_on(docker_url, site.install)) == ([(1, None, "")], [job.pk.hex])
            with site.worker("--slots", "1", **lease):
                (site.effects() / "go").touch()
                site.await_status(job, "completed")
                eventually(lambda: site.containers() == [])
    assert attempts_of(job) == [(1, 0, "")]
    assert site.runs() == ["begin 1", "end 1"]
    site.clean_up()


def engine_of(executor: Executor) -> str:
    """Return the identity of the engine that answers; "" if none does."""
    try:
        return executor.observe().engine
    except Unavailable:
        return ""


@pytest.mark.shows("howto/docker.md#use-several-daemons")
def test_a_daemon_is_the_same_by_another_address_and_another_one_by_the_same_address(
    docker_url: str, own_daemon: Daemon, tmp_path: Path
) -> None:
    site = Site(docker_url, tmp_path)
    with proxy(docker_url, tmp_path) as way:
        executor, direct = site.executor(base_url=way.url), site.executor()
        seen = executor.check().engine
        assert seen == direct.check().engine
        wait_until(executor, lambda: engine_of(executor) == seen)
        way.lead_to(own_daemon.url)
        wait_until(executor, lambda: engine_of(executor) not in ("", seen))
        executor.close()
        direct.close()
    site.clean_up()

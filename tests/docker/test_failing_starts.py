"""Starts that a container runtime fails on order: what the host lacks is tried again, what the job asks for is final."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from container_manager.executors.base import DependencyUnavailable, Rejected
from container_manager.executors.docker import DockerExecutor
from container_manager.testing.conformance import ended

from . import proxy
from .daemon import Daemon
from .docker_harness import DockerHarness

_PATIENCE_SECONDS = 60
pytestmark = pytest.mark.without_database
# As runc does: what is wrong goes to a file that the daemon reads.
_RUNTIME = """#!/bin/sh
fault=$(cat {folder}/fault 2>/dev/null)
[ -n "$fault" ] || exec {runc} "$@"
log= words=" $* "
while [ $# -gt 0 ]; do
    [ "$1" = --log ] && log=$2
    shift
done
case "$words" in
    *" create "*) printf '%s\\n' "$fault" >> "$log"; exit 1 ;;
esac
exit 1
"""


class OddRuntime:
    """A container runtime of a daemon's own that creates no container as long as it has a fault."""

    def __init__(self, folder: Path) -> None:
        self._fault = folder / "fault"
        self.path = folder / "odd-runtime"
        self.path.write_text(_RUNTIME.format(folder=folder, runc=shutil.which("runc")))
        self.path.chmod(0o755)

    def fail(self, text: str) -> None:
        self._fault.write_text(json.dumps({"level": "error", "msg": text}) if text else "")


@pytest.fixture
def runtime(tmp_path: Path) -> OddRuntime:
    return OddRuntime(tmp_path)


@pytest.fixture
def harness(new_daemon: Callable[..., Daemon], runtime: OddRuntime, tmp_path: Path) -> Iterator[DockerHarness]:
    daemon = new_daemon(options=["--add-runtime", f"odd={runtime.path}"])
    harness = DockerHarness(daemon.url, tmp_path, runtime="odd")
    yield harness
    harness.clean_up()


@pytest.fixture
def executor(harness: DockerHarness) -> Iterator[DockerExecutor]:
    executor = harness.executor()
    yield executor
    executor.close()


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_start_fails_the_job_only_for_what_the_job_requests_not_for_what_the_host_lacks(
    harness: DockerHarness, executor: DockerExecutor, runtime: OddRuntime
) -> None:
    spec = harness.spec("true")
    for text in (
        "container_linux.go:367: starting container process caused: process_linux.go:340: "
        "applying cgroup configuration for process caused: mkdir /sys/fs/cgroup/x: no space left on device",
        "runc create failed: unable to start container process: fork/exec /proc/self/exe: resource temporarily unavailable",
        "unable to start container process: cannot allocate memory",
        'error mounting "/a" to rootfs at "/b": device or resource busy',
        "something that nobody has seen before",
    ):
        runtime.fail(text)
        with pytest.raises(DependencyUnavailable) as error:
            executor.submit(spec)
        assert text.rpartition(": ")[2] in str(error.value)
        # Nothing is left that a later try would have to tell from a container that has run.
        assert harness.containers() == []
    runtime.fail("")
    executor.submit(spec)
    assert ended(executor, spec.key).succeeded
    runtime.fail("unable to start container process: exec: format error: exec format error")
    with pytest.raises(Rejected, match="exec format error") as refused:
        executor.submit(harness.spec("true"))
    assert refused.value.reason == "start"


def test_a_container_that_is_removed_before_its_start_is_created_again(docker_url: str, tmp_path: Path) -> None:
    harness = DockerHarness(docker_url, tmp_path)
    with proxy.proxy(docker_url, tmp_path) as way, ThreadPoolExecutor() as pool:
        executor = harness.executor(base_url=way.url)
        spec = harness.spec("true")
        way.hold("POST /[^ ]*/start", "request")
        submitted = pool.submit(executor.submit, spec)
        way.await_held()
        harness.api.remove_container(spec.key, force=True)
        way.release()
        # The daemon is there, and others may launch.
        assert isinstance(submitted.exception(_PATIENCE_SECONDS), DependencyUnavailable)
        executor.submit(spec)
        assert ended(executor, spec.key).succeeded
        executor.close()
    harness.clean_up()


def test_a_launch_waits_for_a_missing_network(docker_url: str, tmp_path: Path) -> None:
    harness = DockerHarness(docker_url, tmp_path, networks=["not-yet"])
    executor = harness.executor()
    with pytest.raises(DependencyUnavailable, match="network not-yet not found"):
        executor.submit(harness.spec("true", container={"network": "not-yet"}))
    executor.close()
    harness.clean_up()

"""Secrets as files in containers: in memory, read-only, and gone with the attempt."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from container_manager.executors.base import LaunchSpec, Rejected
from container_manager.executors.docker import DockerExecutor
from container_manager.executors.docker.options import docker_options
from container_manager.testing.conformance import ended, output, text

from .docker_harness import DockerHarness

_VALUE = b"correct\0horse\n"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a tmpfs that the daemon sees, too."""
    with tempfile.TemporaryDirectory(prefix="cm-docker-test-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def secretive(harness: DockerHarness, memory: Path) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(
        docker_options(harness.options),
        install=harness.install,
        secrets_directory="/none",
        secret_files_directory=str(memory),
    )
    yield executor
    executor.close()


def with_secret(harness: DockerHarness, script: str, **fields: object) -> LaunchSpec:
    return replace(harness.spec(script, **fields), secret_files={"key": _VALUE})


def placed(memory: Path) -> list[str]:
    return [path.name for path in memory.glob("container-manager-*/containers/*")]


@pytest.mark.shows("reference/jobs.md#secrets")
@pytest.mark.parametrize("user", ["", "4321:4321"])
def test_a_container_reads_its_secrets_from_memory_and_cannot_change_them(
    harness: DockerHarness, secretive: DockerExecutor, memory: Path, user: str
) -> None:
    script = (
        'cd "$CONTAINER_MANAGER_SECRETS" && pwd && od -An -c key && grep " /run/secrets " /proc/mounts; '
        "echo changed 2>/dev/null >key || echo kept; rm -f key 2>/dev/null || echo there"
    )
    spec = with_secret(harness, script, container={"user": user, "read_only": True})
    handle = secretive.submit(spec)
    where, content, mount, *rest = text(output(secretive, handle)).decode().splitlines()
    assert (where, "".join(content.split())) == ("/run/secrets", r"correct\0horse\n")
    _, _, kind, options, *_ = mount.split()
    assert (kind, options.split(",")[0], rest) == ("tmpfs", "ro", ["kept", "there"])
    assert ended(secretive, spec.key).succeeded
    assert placed(memory) == [spec.key]
    secretive.remove(handle)
    assert placed(memory) == []


@pytest.mark.shows("reference/jobs.md#what-shows-a-value")
def test_docker_inspect_shows_secret_variables_and_not_secret_files(
    harness: DockerHarness, secretive: DockerExecutor
) -> None:
    spec = replace(with_secret(harness, "sleep 60"), environment={"TOKEN": "told to the daemon"})
    secretive.submit(spec)
    shown = json.dumps(harness.api.inspect_container(spec.key))
    assert "told to the daemon" in shown
    assert "horse" not in shown
    secretive.remove(spec.key)


def test_secret_files_of_a_failed_attempt_are_removed_though_its_container_is_kept(
    harness: DockerHarness, memory: Path
) -> None:
    executor = DockerExecutor(
        docker_options({**harness.options, "keep_failed_seconds": 600.0}),
        install=harness.install,
        secrets_directory="/none",
        secret_files_directory=str(memory),
    )
    try:
        spec = with_secret(harness, "exit 3")
        executor.submit(spec)
        assert ended(executor, spec.key).code == 3
        executor.remove(spec.key, failed=True)
        assert harness.api.inspect_container(spec.key)["State"]["Status"] == "exited"
        assert placed(memory) == []
        executor.remove(spec.key)
    finally:
        executor.close()


def test_a_worker_that_adopts_a_container_finds_its_secret_files_and_removes_both(
    harness: DockerHarness, secretive: DockerExecutor, memory: Path
) -> None:
    script = "until test -e $EFFECTS/go; do sleep 0.05; done; cat $CONTAINER_MANAGER_SECRETS/key"
    spec = with_secret(harness, script)
    secretive.submit(spec)
    secretive.release(spec.key)
    another = DockerExecutor(
        docker_options(harness.options),
        install=harness.install,
        secrets_directory="/none",
        secret_files_directory=str(memory),
    )
    try:
        # It does not know whether it was launched.
        another.submit(spec)
        (harness.effects() / "go").touch()
        assert text(output(another, spec.key)) == _VALUE
        assert ended(another, spec.key).succeeded
        another.remove(spec.key)
        assert placed(memory) == []
    finally:
        another.close()


@pytest.mark.shows("reference/jobs.md#secrets")
def test_a_daemon_on_another_host_gets_no_secret_files(harness: DockerHarness) -> None:
    options = docker_options({**harness.options, "base_url": "ssh://docker.invalid"})
    executor = DockerExecutor(options, install=harness.install, secrets_directory="/none")
    try:
        with pytest.raises(Rejected, match="need a daemon on the worker's host"):
            executor.submit(with_secret(harness, "true"))
    finally:
        executor.close()

"""What a job may wish for beyond its limits, seen from inside its container, on a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Executor, LaunchSpec, Rejected
from container_manager.jobs.container_request import ContainerRequest
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import ended, job_fields, new_key, output, text

from .docker_harness import DockerHarness, launch
from .image import ENTRYPOINT_IMAGE, IMAGE
from .registry import Registry
from .test_images import VARIABLE, forget

_HERE = "linux/amd64"


def ran(executor: Executor, *argv: str, container: dict[str, Any] | None = None, **fields: Any) -> tuple[str, str]:
    """Return what a command prints, and what the worker says beside it."""
    job, _ = job_fields({"image": IMAGE, **fields})
    spec = LaunchSpec(key=new_key(), argv=argv, job=job, container=ContainerRequest(**(container or {})))
    handle = launch(executor, spec)
    chunks = output(executor, handle)
    assert ended(executor, spec.key).succeeded, chunks
    return text(chunks).decode(), text(chunks, "system").decode()


@pytest.mark.shows("howto/docker.md#run-another-program-than-the-images")
def test_a_jobs_entrypoint_replaces_the_images_and_its_command(harness: DockerHarness) -> None:
    executor = harness.executor(images=[ENTRYPOINT_IMAGE])
    asked = {"entrypoint": "/bin/echo 'in place'"}
    assert ran(executor, image=ENTRYPOINT_IMAGE) == ("entrypoint command\n", "")
    assert ran(executor, image=ENTRYPOINT_IMAGE, container=asked) == ("in place\n", "")
    assert ran(executor, "of it", image=ENTRYPOINT_IMAGE, container=asked) == ("in place of it\n", "")
    executor.close()


def test_a_missing_entrypoint_is_reported_as_a_failed_start(harness: DockerHarness) -> None:
    executor = harness.executor()
    asked = ContainerRequest(entrypoint="/no/such/program")
    executor.submit(spec := LaunchSpec(key=new_key(), argv=("x",), job=JobSpec(image=IMAGE), container=asked))
    found = ended(executor, spec.key)
    assert found.unstarted
    assert "'/no/such/program' could not be started" in found.message
    executor.close()


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_shared_memory_has_the_requested_size(harness: DockerHarness) -> None:
    script = ("sh", "-c", "df -k /dev/shm | tail -1")
    executor = harness.executor(shm_bytes=8 << 20)
    for asked, kilobytes in (({"shm_bytes": 1 << 20}, "1024"), ({}, "8192")):
        assert kilobytes in ran(executor, *script, container=asked)[0].split()
    with pytest.raises(Rejected, match=r"asks for shm_bytes=16777216; .* option 'shm_bytes' allows 8388608"):
        ran(executor, *script, container={"shm_bytes": 16 << 20})
    executor.close()


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_container_has_the_requested_hosts_and_dns_servers(harness: DockerHarness) -> None:
    executor = harness.executor(extra_hosts={"db": "192.0.2.7", "six": "2001:db8::7"}, dns=["192.0.2.53"])
    asked = {"extra_hosts": ["db", "six"], "dns": ["192.0.2.53"]}
    found, _ = ran(executor, "cat", "/etc/hosts", "/etc/resolv.conf", container=asked)
    lines = [line.split() for line in found.splitlines()]
    assert all(line in lines for line in (["192.0.2.7", "db"], ["2001:db8::7", "six"], ["nameserver", "192.0.2.53"]))
    found, _ = ran(executor, "cat", "/etc/hosts", "/etc/resolv.conf")
    assert "192.0.2" not in found
    executor.close()


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_job_gets_the_cores_that_the_host_has_and_its_log_says_so(harness: DockerHarness) -> None:
    cores = harness.api.info()["NCPU"]
    script = (
        "sh",
        "-c",
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d ' ' -f 1 /sys/fs/cgroup/cpu.max",
    )
    executor = harness.executor()
    expected = f"The job asks for {cores + 1} cores; the daemon's host has {cores}.\n"
    assert ran(executor, *script, cpu_count=cores + 1) == (f"{cores}00000\n", expected)
    assert ran(executor, *script, cpu_count=float(cores)) == (f"{cores}00000\n", "")
    executor.close()
    # It is the settings' own limit: there is nothing to say of each job.
    executor = harness.executor(cpu_count=cores + 1)
    assert ran(executor, *script) == (f"{cores}00000\n", "")
    executor.close()


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_new_volume_belongs_to_the_user_that_the_settings_name(harness: DockerHarness) -> None:
    source = f"{harness.install}-owned"
    volumes = {"results": {"source": source, "read_only": False, "owner": "1000:1001"}}
    executor = harness.executor(volumes=volumes, user="1000:1001", read_only=True)
    try:
        mine, script = (
            {"volumes": {"results": "/results"}},
            "touch /results/$0 && stat -c '%u %g %a' /results && ls /results",
        )
        assert ran(executor, "sh", "-c", script, "one", container=mine) == ("1000 1001 755\none\n", "")
        # What a job has made of it stays.
        ran(executor, "chmod", "2770", "/results", container=mine)
        assert ran(executor, "sh", "-c", script, "two", container=mine) == ("1000 1001 2770\none\ntwo\n", "")
    finally:
        executor.close()
        harness.clean_up()
        harness.api.remove_volume(source)


def test_a_volume_with_an_owner_keeps_its_owner(harness: DockerHarness) -> None:
    source = f"{harness.install}-owned"
    volume = {"source": source, "read_only": False, "owner": "1000:1000"}
    mine, whose = {"volumes": {"results": "/results"}}, ("stat", "-c", "%u:%g", "/results")
    executor, other = (harness.executor(volumes={"results": {**volume, "owner": o}}) for o in ("1000:1000", "7:7"))
    try:
        assert ran(executor, *whose, container=mine)[0] == "1000:1000\n"
        assert ran(other, *whose, container=mine)[0] == "1000:1000\n"
    finally:
        executor.close()
        other.close()
        harness.clean_up()
        harness.api.remove_volume(source)


@pytest.fixture
def with_registry(
    docker_url: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DockerHarness]:
    """An installation whose images come from the registry, and that has none of them yet."""
    monkeypatch.setenv(VARIABLE, registry.password)
    logins = {registry.address: {"username": registry.user, "password": f"env:{VARIABLE}"}}
    harness = DockerHarness(docker_url, tmp_path, images=["*"], registries=logins, platforms=[_HERE, "linux/s390x"])
    forget(harness, f"{registry.address}/team/job:1")
    yield harness
    harness.clean_up()


@pytest.mark.shows("howto/docker.md#run-another-program-than-the-images")
def test_an_image_is_run_for_the_requested_platform(with_registry: DockerHarness, registry: Registry) -> None:
    executor, image = with_registry.executor(), f"{registry.address}/team/job:1"
    assert ran(executor, "echo", "here", image=image, container={"platform": _HERE})[0] == "here\n"
    with pytest.raises(Rejected, match="platform 'linux/s390x'") as rejection:
        ran(executor, "echo", "here", image=image, container={"platform": "linux/s390x"})
    assert rejection.value.reason == "image"
    executor.close()


def test_an_image_with_tag_and_digest_is_pulled_and_run(with_registry: DockerHarness, registry: Registry) -> None:
    image = f"{registry.address}/team/job:1"
    executor = with_registry.executor()
    ran(executor, "true", image=image)
    digests = with_registry.api.inspect_image(image)["RepoDigests"]
    (digest,) = (name for name in digests if name.startswith(registry.address))
    executor.close()
    forget(with_registry, image)
    both = f"{image}@{digest.partition('@')[2]}"
    executor = with_registry.executor(images=[f"{registry.address}/team/job:1@sha256:*"])
    assert ran(executor, "echo", "pinned", image=both)[0] == "pinned\n"
    executor.close()
    with_registry.clean_up()
    forget(with_registry, digest)

"""What a container cannot do, seen from inside it, and what a job cannot get, on a real daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Executor, LaunchSpec, Rejected
from container_manager.executors.docker.flavours import PODMAN, flavour_of
from container_manager.jobs.container_request import ContainerRequest
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import ended, new_key, output, text

from .docker_harness import DockerHarness
from .image import IMAGE


def printed(harness: DockerHarness, script: str, *, options: dict[str, Any] | None = None, **fields: Any) -> str:
    """Return what a script prints in a container."""
    executor = harness.executor(**(options or {}))
    try:
        spec = harness.spec(script, **fields)
        handle = executor.submit(spec)
        found = text(output(executor, handle)).decode()
        assert ended(executor, spec.key).succeeded, found
        return found
    finally:
        executor.close()


@pytest.mark.shows("howto/docker.md#relax-the-defaults")
def test_a_default_container_has_no_capabilities(harness: DockerHarness) -> None:
    status = dict(line.split(":", 1) for line in printed(harness, "cat /proc/self/status").splitlines())
    found = {name: status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")}
    none = "0" * 16
    assert found == {"CapEff": none, "CapPrm": none, "CapBnd": none, "NoNewPrivs": "1", "Seccomp": "2"}


@pytest.mark.shows(
    "howto/docker.md#relax-the-defaults", "explanation/attacks.md#fork-bomb", "explanation/attacks.md#all-memory"
)
def test_a_container_has_limits_of_processes_and_memory_and_no_swap(harness: DockerHarness) -> None:
    script = (
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
        " /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/pids.max"
        " /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max"
    )
    pids, memory, swap = printed(harness, script, memory_bytes=32 << 20).split()
    assert (int(pids), int(memory)) == (512, 32 << 20)
    # With the second version of control groups, that of swap alone; with the first, that of memory and swap.
    assert int(swap) in (0, 32 << 20)


@pytest.mark.shows("howto/docker.md#relax-the-defaults")
def test_a_container_sees_no_network_but_its_own_loopback(harness: DockerHarness) -> None:
    devices = [line.split(":")[0].strip() for line in printed(harness, "cat /proc/net/dev").splitlines()[2:]]
    assert "lo" in devices
    assert not [name for name in devices if name.startswith(("eth", "docker", "veth"))]


@pytest.mark.shows("howto/docker.md#relax-the-defaults")
def test_a_container_runs_as_the_user_that_is_asked_for(harness: DockerHarness) -> None:
    assert printed(harness, "id -u; id -g", container={"user": "1000:1000"}).split() == ["1000", "1000"]
    assert printed(harness, "id -u", options={"user": "1000"}).split() == ["1000"]


def test_a_containers_files_can_be_read_only_except_a_tmpfs(harness: DockerHarness) -> None:
    script = "touch /here 2>&1 || true; touch /scratch/there && df -k /scratch | tail -1"
    found = printed(harness, script, container={"read_only": True, "tmpfs": {"/scratch": 1 << 20}})
    assert "Read-only file system" in found
    assert "1024" in found.splitlines()[-1].split()


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_volume_is_read_only_unless_the_settings_say_otherwise(harness: DockerHarness) -> None:
    volumes = {**harness.options["volumes"], "fixed": {"source": str(harness.effects())}}
    asked = {"volumes": {"effects": str(harness.effects()), "fixed": "/fixed"}}
    script = "touch $EFFECTS/written; touch /fixed/not 2>&1 || true"
    found = printed(harness, script, options={"volumes": volumes}, container=asked)
    assert "Read-only file system" in found
    assert [path.name for path in harness.effects().iterdir()] == ["written"]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_the_daemon_fills_only_writable_volumes_from_the_image(harness: DockerHarness, read_only: bool) -> None:
    """It fills a volume that is empty with what the image has at the path, which the job names."""
    source = f"{harness.install}-fixed"
    executor = harness.executor(volumes={"fixed": {"source": source, "read_only": read_only}})
    found = []
    for path in ("/bin", "/fixed"):
        asked = ContainerRequest(volumes={"fixed": path})
        executor.submit(
            spec := LaunchSpec(key=new_key(), argv=("ls", "/fixed"), job=JobSpec(image=IMAGE), container=asked)
        )
        found.append((ended(executor, spec.key).unstarted, text(output(executor, spec.key))))
        executor.remove(spec.key)
    executor.close()
    harness.api.remove_volume(source)
    # There is no ls in an empty /bin.
    assert [unstarted for unstarted, _ in found] == [read_only, False]
    assert [b"busybox" in said for _, said in found] == [False, not read_only]


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_the_smallest_share_of_cores_is_still_a_limit(harness: DockerHarness) -> None:
    script = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d ' ' -f 1 /sys/fs/cgroup/cpu.max"
    assert printed(harness, script, cpu_count=0.01).split() == ["1000"]
    executor = harness.executor(cpu_count=1)
    for share in (0.009, 0.00001, 1e-10):
        with pytest.raises(Rejected, match=r"it can have from 0\.01 to"):
            executor.submit(harness.spec("true", cpu_count=share))
    executor.close()


@pytest.mark.shows("howto/docker.md#relax-the-defaults")
def test_only_the_allowed_capability_is_kept(harness: DockerHarness) -> None:
    found = printed(harness, "grep CapEff /proc/self/status", options={"capabilities": ["CHOWN"]})
    assert int(found.split()[1], 16) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"container": {"volumes": {"effects": "/e", "root": "/host"}}},
        {"container": {"network": "host"}},
        {"image": "debian:12"},
        {"container": {"gpus": 1}},
        {"container": {"pids": 100000}},
        {"working_directory": "not/absolute"},
        {"working_directory": "/etc/passwd"},
        {"working_directory": "/etc/passwd/below"},
        {"working_directory": "/" + "x" * 300},
        {"working_directory": "/a\0b"},
        {"container": {"user": "nobody-knows-this-user"}},
        {"container": {"user": "4294967295"}},
        {"container": {"user": "-1"}},
        {"key": "not a/valid name"},
    ],
    ids="-".join,
)
@pytest.mark.shows(
    "explanation/worker.md#a-job-fails",
    "howto/docker.md#say-what-jobs-may-have",
    "howto/docker.md#let-others-submit-jobs",
)
def test_a_container_request_that_is_not_allowed_is_rejected_and_leaves_no_container(
    harness: DockerHarness, executor: Executor, fields: dict[str, Any]
) -> None:
    spec = harness.spec("echo ran > $EFFECTS/ran", **fields)
    with pytest.raises(Rejected):
        executor.submit(spec)
    assert harness.containers() == []
    assert not (harness.effects() / "ran").exists()


@pytest.mark.parametrize("gpus", [1000, 2**70])
def test_gpus_that_the_daemon_lacks_are_rejected_and_not_waited_for(harness: DockerHarness, gpus: int) -> None:
    executor = harness.executor(gpus=-1)
    with pytest.raises(Rejected):
        executor.submit(harness.spec("true", container={"gpus": gpus}))
    executor.close()
    assert harness.containers() == []


@pytest.mark.parametrize(
    ("argv", "said"), [(("/etc/passwd",), "Permission denied"), (("/no/such",), "No such file or directory")]
)
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_program_that_cannot_be_started_is_told_from_one_that_fails(
    harness: DockerHarness, executor: Executor, argv: tuple[str, ...], said: str
) -> None:
    spec = LaunchSpec(key=new_key(), argv=argv, job=JobSpec(image=IMAGE))
    executor.submit(spec)
    status = ended(executor, spec.key)
    assert status.unstarted
    assert said in status.message
    assert argv[0] in status.message


@pytest.mark.shows("howto/docker.md#use-podman")
def test_a_missing_volume_source_is_reported_or_created(harness: DockerHarness, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    executor = harness.executor(volumes={"effects": {"source": str(missing)}})
    if flavour_of(harness.api.version()) is PODMAN:
        executor.submit(harness.spec("true"))
        assert missing.is_dir()
    else:
        with pytest.raises(Rejected, match=str(missing)):
            executor.submit(harness.spec("true"))
        assert not missing.exists()
    executor.close()

"""Limits that a daemon cannot hold are said, and a job that has one is rejected unless the options say otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from container_manager.executors.base import Executor, Rejected
from container_manager.executors.docker.held_limits import missing_limits, take_limits, warnings
from container_manager.testing.conformance import ended, output, text

from .docker_harness import DockerHarness

pytestmark = pytest.mark.without_database

ABLE: dict[str, Any] = {
    "MemoryLimit": True, "SwapLimit": True, "PidsLimit": True, "CpuCfsPeriod": True, "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=default"], "Warnings": None,
    "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"], ["Supports d_type", "true"]],
}  # fmt: skip
# Rootless with the first version of control groups, which cannot be delegated.
ROOTLESS = {
    "MemoryLimit": False, "SwapLimit": False, "PidsLimit": False, "CpuCfsPeriod": False, "CpuCfsQuota": False,
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"], "CgroupDriver": "none",
    "Warnings": ["WARNING: Running in rootless-mode without cgroups."],
    "Driver": "fuse-overlayfs", "DriverStatus": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("says", "missing"),
    [
        ({}, {}),
        ({"MemoryLimit": False}, {"memory_bytes": "its host has no such control group (MemoryLimit)"}),
        ({"PidsLimit": False}, {"pids": "its host has no such control group (PidsLimit)"}),
        ({"CpuCfsQuota": False}, {"cpu_count": "its host has no such control group (CpuCfsPeriod, CpuCfsQuota)"}),
        ({"DriverStatus": None}, {"storage_bytes": "its storage driver overlay2 limits no container"}),
        ({"Driver": "btrfs", "DriverStatus": None}, {}),
        (
            {"DriverStatus": [["Backing Filesystem", "extfs"]]},
            {"storage_bytes": "its storage driver overlay2 on extfs limits no container"},
        ),
    ],
)
def test_limits_that_a_daemon_cannot_enforce_are_known_with_the_reason(
    says: dict[str, Any], missing: dict[str, str]
) -> None:
    assert missing_limits({**ABLE, **says}) == missing


def test_a_rootless_daemon_without_control_groups_enforces_no_limit() -> None:
    missing = missing_limits(ROOTLESS)
    assert list(missing) == ["memory_bytes", "cpu_count", "pids", "storage_bytes"]
    assert missing["pids"] == "it is rootless, and was given no such control group (PidsLimit)"


def test_a_limit_that_a_daemon_does_not_mention_counts_as_enforced() -> None:
    assert missing_limits({"Driver": "zfs"}) == {}


def test_limits_that_a_daemon_cannot_enforce_are_left_out_and_the_others_stay() -> None:
    host = {"Memory": 1, "MemorySwap": 1, "NanoCpus": 2, "PidsLimit": 3, "Init": True}
    assert take_limits(host, {"memory_bytes": "", "storage_bytes": ""}) == ["memory_bytes"]
    assert host == {"NanoCpus": 2, "PidsLimit": 3, "Init": True}


@pytest.mark.shows("howto/docker.md#limits-that-the-daemon-cannot-hold")
def test_a_daemons_own_warnings_are_passed_on() -> None:
    assert list(warnings(ABLE, storage=True)) == []
    said = list(warnings({**ROOTLESS, "MemoryLimit": True, "CpuCfsPeriod": True, "CpuCfsQuota": True}, storage=False))
    assert said == [
        "The limit pids is not in force: it is rootless, and was given no such control group (PidsLimit).",
        "Jobs with a memory limit may use swap in addition: its host does not account for swap.",
        "Running in rootless-mode without cgroups.",
    ]


@pytest.mark.shows("howto/docker.md#limits-that-the-daemon-cannot-hold", "explanation/attacks.md#all-disk")
@pytest.mark.shows("howto/docker.md#limits-that-the-daemon-cannot-hold")
def test_a_job_with_a_limit_that_the_daemon_cannot_enforce_is_rejected(harness: DockerHarness) -> None:
    executor = harness.executor(storage_bytes=1 << 30)
    held = "storage_bytes" not in missing_limits(harness.api.info())
    try:
        if held:
            spec = harness.spec("true")
            executor.submit(spec)
            assert ended(executor, spec.key).succeeded
        else:
            with pytest.raises(
                Rejected, match="cannot hold limits of this job: storage_bytes, since its storage"
            ) as no:
                executor.submit(harness.spec("true"))
            assert no.value.reason == "start"
            assert harness.containers() == []
            assert any("storage_bytes is not in force" in warning for warning in executor.check().warnings)
    finally:
        executor.close()


@pytest.mark.shows("howto/docker.md#limits-that-the-daemon-cannot-hold")
def test_an_option_lets_jobs_run_without_the_limits_that_the_daemon_cannot_enforce(harness: DockerHarness) -> None:
    executor = harness.executor(storage_bytes=1 << 30, ignore_missing_limits=True)
    try:
        spec = harness.spec("echo ran")
        executor.submit(spec)
        assert text(output(executor, spec.key)) == b"ran\n"
    finally:
        executor.close()


def test_a_daemon_that_enforces_all_limits_gives_no_warning_of_missing_ones(executor: Executor) -> None:
    assert not [warning for warning in executor.check().warnings if "not in force" in warning]

"""The ``container`` command with a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .docker_harness import DockerHarness
from .image import IMAGE

ROOT = Path(__file__).resolve().parents[2]


def container(
    harness: DockerHarness, folder: Path, *words: str, unreachable_seconds: int = 60
) -> subprocess.CompletedProcess[str]:
    """Run a verb without a project, on a database in a folder and an executor ``default`` on the harness's daemon."""
    config = folder / "config.toml"
    config.write_text(
        f"""INSTALL = "{harness.install}"
UNREACHABLE_SECONDS = {unreachable_seconds}
[EXECUTORS.default]
BACKEND = "container_manager.executors.docker.DockerExecutor"
OPTIONS = {{base_url = "{harness.url}", images = ["{IMAGE}"], ulimits = {{nofile = 128}}}}
"""
    )
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    own = {
        "CONTAINER_MANAGER_DATABASE": str(folder / "jobs.sqlite3"),
        "CONTAINER_MANAGER_CONFIG": str(config),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "container_manager", *words]
    return subprocess.run(command, env={**kept, **own}, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.shows("howto/docker.md#run-jobs-in-containers")
def test_the_executors_command_prints_what_a_daemon_has(harness: DockerHarness, tmp_path: Path) -> None:
    info = harness.api.info()
    done = container(harness, tmp_path, "executors", "--json")
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    assert (found["ok"], found["cpu_count"], found["memory_bytes"]) == (True, info["NCPU"], info["MemTotal"])
    assert info["ServerVersion"] in found["message"]
    assert {warning.removeprefix("WARNING: ") for warning in info["Warnings"] or ()} <= set(found["warnings"])


def test_the_executors_command_says_that_no_daemon_answers(harness: DockerHarness, tmp_path: Path) -> None:
    harness.url = "unix:///nowhere/docker.sock"
    done = container(harness, tmp_path, "executors")
    assert done.returncode == 1
    assert "unix:///nowhere/docker.sock does not answer" in done.stdout
    assert "A Docker daemon must run there and let this user in." in done.stdout


@pytest.mark.shows("howto/docker.md#submit-a-job")
def test_the_run_command_gives_a_container_what_its_options_request(harness: DockerHarness, tmp_path: Path) -> None:
    script = "id -u; id -g; ulimit -n; touch /file || touch /run/file; df -k /run | tail -n 1 | awk '{print $2}'"
    asked = ("--user", "5:6", "--tmpfs", "/run:1m", "--ulimit", "nofile=64", "--read-only", "--label", "team=a")
    done = container(harness, tmp_path, "run", "--image", IMAGE, *asked, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "6", "64", "1024"]
    assert "/file: Read-only file system" in done.stderr
    assert harness.containers() == []


def test_the_run_command_says_that_no_daemon_answers_and_leaves_nothing_queued(
    harness: DockerHarness, tmp_path: Path
) -> None:
    harness.url = "unix:///nowhere/docker.sock"
    done = container(harness, tmp_path, "run", "--image", IMAGE, "--", "true", unreachable_seconds=2)
    assert done.returncode == 1
    assert "No answer from executor default: job " in done.stderr
    assert "Traceback" not in done.stderr
    [job] = json.loads(container(harness, tmp_path, "ps", "--all", "--json").stdout)
    assert (job["status"], job["attempt"]) == ("cancelled", 0)


def test_the_run_command_says_that_a_network_is_not_allowed(harness: DockerHarness, tmp_path: Path) -> None:
    done = container(harness, tmp_path, "run", "--image", IMAGE, "--network", "inner", "--", "true")
    assert done.returncode == 1
    assert "The network 'inner' is not allowed" in done.stderr

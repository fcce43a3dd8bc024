"""The demo in containers runs to its end and leaves no container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from container_manager.executors.docker.configuration import INSTALL_LABEL

from .image import IMAGE

ROOT = Path(__file__).resolve().parents[2]


def demo(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-m", "container_manager", "demo", "--executor", "docker", *options]
    variables = {**environment, "DOCKER_HOST": url, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240, check=False)


def demo_containers(api: docker.APIClient) -> set[str]:
    labelled = api.containers(all=True, filters={"label": INSTALL_LABEL})
    return {row["Id"] for row in labelled if row["Labels"][INSTALL_LABEL].startswith("demo-")}


@pytest.mark.shows("howto/docker.md#run-jobs-in-containers")
def test_the_demo_in_containers_ends_well_and_leaves_none(docker_url: str) -> None:
    api = docker.APIClient(docker_url)
    before = demo_containers(api)
    done = demo(docker_url, "--image", IMAGE)
    after = demo_containers(api)
    api.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every job ended as it should." in done.stdout
    assert f"containers of the image {IMAGE}" in done.stdout
    assert after <= before


def test_the_demo_names_what_went_wrong(docker_url: str) -> None:
    # Without its image no job runs, and the demo must not pass for a success.
    done = demo(docker_url, "--image", "localhost/é")
    assert done.returncode == 1
    assert "NOT as expected" in done.stdout
    assert "hello: expected" in done.stdout


@pytest.mark.without_database
def test_the_demo_without_a_daemon_says_what_to_do() -> None:
    done = demo("unix:///nowhere/docker.sock")
    assert done.returncode == 2
    assert "unix:///nowhere/docker.sock does not answer" in done.stderr
    assert "DOCKER_HOST" in done.stderr

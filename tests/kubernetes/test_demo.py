"""The demo on a cluster runs to its end and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .cluster_under_test import ClusterUnderTest

ROOT = Path(__file__).resolve().parents[2]


def demo(kubeconfig: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-m", "container_manager", "demo", "--executor", "kubernetes", *options]
    variables = {**environment, "KUBECONFIG": kubeconfig, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240, check=False)


def test_the_demo_on_a_cluster_ends_well_and_leaves_nothing(cluster: ClusterUnderTest, namespace: str) -> None:
    done = demo(str(cluster.kubeconfig), "--image", cluster.image, "--namespace", namespace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every job ended as it should." in done.stdout
    assert f"Jobs: Kubernetes Jobs of the image {cluster.image}" in done.stdout
    cluster.wait_for(lambda: not cluster.batch.list_namespaced_job(namespace).items)
    cluster.wait_for(lambda: not cluster.core.list_namespaced_pod(namespace).items)


@pytest.mark.without_database
def test_the_demo_without_a_cluster_says_what_to_do(tmp_path: Path) -> None:
    done = demo(str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "KUBECONFIG" in done.stderr


@pytest.mark.without_database
@pytest.mark.parametrize(
    "options", [["--executor", "process", "--image", "x"], ["--executor", "docker", "--namespace", "x"]]
)
def test_the_demo_refuses_options_that_its_executor_does_not_have(options: list[str]) -> None:
    done = demo("", *options)
    assert done.returncode == 2
    assert "is for --executor" in done.stderr

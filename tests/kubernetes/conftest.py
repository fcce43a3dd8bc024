"""A real cluster: the one that `python -m tests.kubernetes` has started, or the one that KUBECONFIG names."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Executor

from ..prerequisites import require
from .api_proxy import ApiProxy, api_proxy
from .cluster_site import ClusterSite
from .cluster_under_test import ClusterUnderTest
from .control import ClusterControl
from .kubernetes_harness import KubernetesHarness

# Beside the others' tests, one that must be alone waits for them, and for those that must be alone too.
_WAITING_SECONDS = 3600


# Before `-m` chooses by marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here) and "control" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.disturbs_cluster)
            item.add_marker(pytest.mark.timeout(_WAITING_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the cluster's parts have said where a test that has them in hand fails: its folder goes at the end."""
    report = yield
    control = getattr(item, "funcargs", {}).get("control")
    if report.when == "call" and report.failed and control is not None:
        report.sections.append(("The cluster's parts", control.last_words()))
    return report


@pytest.fixture(scope="session")
def cluster() -> ClusterUnderTest:
    """The cluster that is shared by all tests."""
    found = ClusterUnderTest.found()
    require("A Kubernetes cluster (python -m tests.kubernetes starts one)", found)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _hold_the_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that has parts of the cluster in hand runs alone."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: ClusterUnderTest = request.getfixturevalue("cluster")
    with cluster.held(alone="control" in request.fixturenames):
        yield


@pytest.fixture
def control(cluster: ClusterUnderTest, request: pytest.FixtureRequest) -> Iterator[ClusterControl]:
    """The parts of the cluster, for a test that ends, pauses and starts them; it makes nothing good itself."""
    # The end of a namespace needs what is made good here, so it comes after.
    if "namespace" in request.fixturenames:
        request.getfixturevalue("namespace")
    require("A cluster whose nodes the tests have in hand (python -m tests.kubernetes starts one)", cluster.control)
    assert cluster.control is not None
    assert cluster.control.is_in_hand, "Run it by `python -m tests.kubernetes join`."
    yield cluster.control
    cluster.control.restore()


@pytest.fixture
def namespace(cluster: ClusterUnderTest) -> Iterator[str]:
    """A fresh namespace, whose pods must keep to the Pod Security Standard "restricted"."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture
def proxy(cluster: ClusterUnderTest, tmp_path: Path) -> Iterator[ApiProxy]:
    """A proxy before the API server, of this test's own."""
    # Another cluster may let its administrator in by a certificate, which a proxy has not.
    require("A cluster of the tests' own (python -m tests.kubernetes starts one)", cluster.control)
    with api_proxy(cluster.kubeconfig, tmp_path) as running:
        yield running


@pytest.fixture
def site(cluster: ClusterUnderTest, namespace: str, tmp_path: Path) -> Iterator[ClusterSite]:
    """An installation with workers, of this test's own, in a namespace of its own."""
    # Its jobs write into a folder of this machine.
    require("A cluster of the tests' own (python -m tests.kubernetes starts one)", cluster.control)
    site = ClusterSite(cluster, namespace, tmp_path)
    yield site
    site.clean_up()


@pytest.fixture
def harness(cluster: ClusterUnderTest, namespace: str, tmp_path: Path) -> Iterator[KubernetesHarness]:
    """An installation of this test's own, under the rights of the shipped Role."""
    require("A cluster of the tests' own (python -m tests.kubernetes starts one)", cluster.control)
    harness = KubernetesHarness(cluster, namespace, tmp_path)
    yield harness
    harness.clean_up()


@pytest.fixture
def executor(harness: KubernetesHarness) -> Iterator[Executor]:
    executor = harness.executor()
    yield executor
    executor.close()


@pytest.fixture
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiProxy]:
    """A proxy before the API server for the worker of the test's `harness` or `site`, with that one's rights."""
    name = "site" if "site" in request.fixturenames else "harness"
    owner: KubernetesHarness = request.getfixturevalue(name)
    with api_proxy(Path(owner.options["kubeconfig"]), tmp_path) as running:
        yield running


@pytest.fixture
def allowed_secrets(settings: Any) -> dict[str, Any]:
    """Let jobs name some secrets, in this process too; return the settings that a worker needs for that."""
    allowed = {"SECRETS": {"env:CM_SECRET_*": "", "kubernetes:mail/*": ""}}
    settings.CONTAINER_MANAGER = allowed
    return allowed

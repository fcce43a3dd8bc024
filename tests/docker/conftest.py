"""Real engines: the daemon that `python -m tests.docker` has started, and daemons of a test's own."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Executor

from ..prerequisites import require
from . import daemon, image, registry, ssh
from .docker_harness import DockerHarness
from .site import Site

# What the SDK leaves to the garbage collector where a connection fails or is broken off: its socket, and by ssh the
# client with its pipes.
_SOCKETS = r"unclosed <(socket\.socket|ssl\.SSLSocket|docker\.transport\.sshconn\.SSHSocket) "
_SSH_CLIENTS = (r"subprocess \d+ is still running", r"unclosed file <_io\.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here):
            by_ssh = "ssh_daemon" in getattr(item, "fixturenames", ())
            for message in (_SOCKETS, *(_SSH_CLIENTS if by_ssh else ())):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{message}:ResourceWarning"))


@pytest.fixture(autouse=True)
def _collect_what_the_sdk_leaves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Else it would be collected in a test that does not expect it."""
    if "docker_url" in request.fixturenames:
        # First of all: a test that is skipped leaves nothing.
        request.getfixturevalue("docker_url")
    yield
    gc.collect()


@pytest.fixture(scope="session")
def docker_url() -> str:
    """The address of a daemon that has the test images, and is shared by all tests."""
    url = os.environ.get("CM_TEST_DOCKER", "")
    require("A Docker daemon (python -m tests.docker starts one)", url)
    return url


@pytest.fixture
def harness(docker_url: str, tmp_path: Path) -> Iterator[DockerHarness]:
    """An installation of this test's own on the shared daemon."""
    harness = DockerHarness(docker_url, tmp_path)
    yield harness
    harness.clean_up()


@pytest.fixture
def executor(harness: DockerHarness) -> Iterator[Executor]:
    executor = harness.executor()
    yield executor
    executor.close()


@pytest.fixture
def site(docker_url: str, tmp_path: Path) -> Iterator[Site]:
    """An installation with workers, of this test's own, on the shared daemon."""
    site = Site(docker_url, tmp_path)
    yield site
    site.clean_up()


@pytest.fixture(scope="session", name="registry")
def private_registry(docker_url: str) -> Iterator[registry.Registry]:
    """A registry that asks for a password, and has the test image as ``team/job:1``."""
    obstacle = registry.obstacle()
    require(f"A registry of the tests' own ({obstacle})", not obstacle)
    with registry.running() as started:
        started.push(docker_url, "team/job:1")
        yield started


@pytest.fixture(scope="session")
def _can_start(docker_url: str) -> None:
    # Whoever runs the tests without the shared daemon does not want others either.
    obstacle = daemon.obstacle() or image.obstacle()
    require(f"A Docker daemon of a test's own ({obstacle})", not obstacle)


def _started(stack: ExitStack, **options: Any) -> daemon.Daemon:
    engine = stack.enter_context(daemon.Daemon(**options))
    image.import_images(engine.url)
    return engine


@pytest.fixture
def new_daemon(_can_start: None) -> Iterator[Callable[..., daemon.Daemon]]:
    """Make daemons of this test's own, with the options of `Daemon`: started, with the test images."""
    with ExitStack() as stack:
        yield lambda **options: _started(stack, **options)


@pytest.fixture
def own_daemon(new_daemon: Callable[..., daemon.Daemon]) -> daemon.Daemon:
    """A daemon of this test's own, which it may stop, kill and start."""
    return new_daemon()


@pytest.fixture(scope="module")
def quiet_daemon(_can_start: None) -> Iterator[daemon.Daemon]:
    """A daemon of this module's own: it remembers its last 256 events, and others would soon have made as many."""
    with ExitStack() as stack:
        yield _started(stack)


@pytest.fixture(scope="module")
def tls_daemon(_can_start: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Daemon]:
    """A daemon that also listens on the loopback, at ``tls_url``, for clients with its ``certificates``."""
    with ExitStack() as stack:
        yield _started(stack, tls=tmp_path_factory.mktemp("tls"))


@pytest.fixture
def ssh_daemon(own_daemon: daemon.Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssh.Server]:
    """The way to this test's own daemon through an SSH server: its ``url``, for docker's own ssh client."""
    obstacle = ssh.obstacle()
    require(f"An SSH server of a test's own ({obstacle})", not obstacle)
    require("The Python package paramiko", find_spec("paramiko"))
    with ssh.running(own_daemon.url) as server:
        monkeypatch.setenv("PATH", server.path)
        yield server

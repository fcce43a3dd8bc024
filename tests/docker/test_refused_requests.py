"""A request that the daemon does not take is its own job's fault, or nobody's: others are launched meanwhile."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import DependencyUnavailable, Executor, Rejected, Unavailable
from container_manager.executors.docker.daemon import Daemon
from container_manager.executors.docker.daemon_answers import Failed, Gone
from container_manager.executors.docker.options import docker_options
from container_manager.testing.conformance import ended, wait_until

from .docker_harness import DockerHarness
from .proxy import Proxy

pytestmark = pytest.mark.without_database


class StrictProxy(Proxy):
    """Takes no request with this word, in its first line or its body: it answers, or breaks the connection."""

    word = b"unwelcome"
    status = ""
    message = "the daemon says so"
    # How many such requests are still to be refused.
    refusals = math.inf

    def _pass_on(self, source: socket.socket, target: socket.socket, holds: Any, is_request: bool) -> None:
        refusing = _Refusing(source, self) if is_request else source
        super()._pass_on(refusing, target, holds, is_request)  # type: ignore[arg-type]


class _Refusing:
    """The client's end of a connection, whose requests are looked at."""

    def __init__(self, client: socket.socket, proxy: StrictProxy) -> None:
        self._client, self._proxy = client, proxy

    def recv(self, size: int) -> bytes:
        data = self._client.recv(size)
        if self._proxy.word not in data or not self._proxy.refusals:
            return data
        self._proxy.refusals -= 1
        if self._proxy.status:
            body = json.dumps({"message": self._proxy.message}).encode()
            head = f"HTTP/1.1 {self._proxy.status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self._client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        self._client.shutdown(socket.SHUT_RDWR)
        return b""


@pytest.fixture
def strict(docker_url: str, tmp_path: Path) -> Iterator[StrictProxy]:
    running = StrictProxy(docker_url, tmp_path)
    yield running
    running.close()


@pytest.fixture
def executor(harness: DockerHarness, strict: StrictProxy) -> Iterator[Executor]:
    executor = harness.executor(base_url=strict.url)
    yield executor
    executor.close()


def test_a_request_whose_connection_breaks_does_not_mark_the_daemon_as_away(
    harness: DockerHarness, executor: Executor
) -> None:
    with pytest.raises(DependencyUnavailable, match="It answers other requests"):
        executor.submit(harness.spec("true", environment={"A": "unwelcome"}))
    spec = harness.spec("true")
    executor.submit(spec)
    assert ended(executor, spec.key).succeeded


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Request Entity Too Large"])
def test_a_create_request_that_is_invalid_or_too_large_fails_its_job(
    harness: DockerHarness, strict: StrictProxy, executor: Executor, status: str
) -> None:
    strict.status = status
    with pytest.raises(Rejected, match="the daemon says so") as refusal:
        executor.submit(harness.spec("true", environment={"A": "unwelcome"}))
    assert refusal.value.reason == "start"


@pytest.mark.parametrize(
    "status", ["408 Request Timeout", "429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"]
)
def test_any_other_error_of_the_daemon_is_retried_while_other_jobs_launch(
    harness: DockerHarness, strict: StrictProxy, executor: Executor, status: str
) -> None:
    strict.status = status
    with pytest.raises(DependencyUnavailable, match="the daemon says so"):
        executor.submit(harness.spec("true", environment={"A": "unwelcome"}))


class Replaced(Proxy):
    """Leads to what seems to be an older release of the daemon once ``is_older``. Notes by which version it is asked."""

    def __init__(self, harness: DockerHarness, folder: Path) -> None:
        self.version = harness.api.version()["ApiVersion"]
        major, minor = self.version.split(".")
        self.older_version = f"{major}.{int(minor) - 1}"
        self.is_older, self.asked = False, [""]
        super().__init__(harness.url, folder)

    def answer(self, data: bytes) -> bytes:
        said, says = (f'"ApiVersion":"{version}"'.encode() for version in (self.version, self.older_version))
        return data.replace(said, says) if self.is_older else data

    def _look_at(self, data: bytes, holds: threading.Event) -> None:
        if found := re.match(rb"POST /v([0-9.]+)/containers/create", data):
            self.asked.append(found[1].decode())
        super()._look_at(data, holds)


def test_a_daemon_that_is_replaced_by_an_older_release_is_addressed_by_its_own_api_version(
    harness: DockerHarness, tmp_path: Path
) -> None:
    """By the newer one it would refuse every request with 400, and every job would fail for good."""
    way = Replaced(harness, tmp_path)
    executor = harness.executor(base_url=way.url)

    def asked_in_launch() -> str:
        try:
            executor.submit(harness.spec("true"))
        except Unavailable:
            return ""
        return way.asked[-1]

    try:
        assert asked_in_launch() == way.version
        wait_until(executor, lambda: observed(executor))
        way.is_older = True
        way.cut()
        wait_until(executor, lambda: asked_in_launch() == way.older_version)
    finally:
        executor.close()
        way.close()


def observed(executor: Executor) -> bool:
    """Return whether the executor follows the daemon."""
    try:
        return executor.observe().as_of > 0
    except Unavailable:
        return False


def test_a_daemon_that_answers_nothing_is_away(harness: DockerHarness, strict: StrictProxy, executor: Executor) -> None:
    strict.lead_to("unix:///no/such/socket")
    with pytest.raises(Unavailable) as away:
        executor.submit(harness.spec("true"))
    assert not isinstance(away.value, DependencyUnavailable)


REMOVED = "container 2d5a does not exist in database: no such container"


def test_a_container_that_is_removed_while_it_is_inspected_is_gone(strict: StrictProxy) -> None:
    """Podman answers 500 then, and 404 only where it was gone before."""
    strict.word, strict.status, strict.message = b"/containers/cm-it/", "500 Internal Server Error", REMOVED
    daemon = Daemon(docker_options({"base_url": strict.url}))
    with pytest.raises(Gone, match="2d5a"):
        daemon.inspect("cm-it")
    with pytest.raises(Gone, match="2d5a"), daemon.stream("/containers/cm-it/logs", {}):
        pass


def test_a_container_that_seems_to_be_removed_does_not_mark_the_daemon_as_away(
    harness: DockerHarness, executor: Executor, strict: StrictProxy
) -> None:
    spec = harness.spec("true")
    strict.word, strict.status, strict.message = b"/%b/json" % spec.key.encode(), "500 Internal Server Error", REMOVED
    strict.refusals = 1000
    executor.submit(spec)
    assert ended(executor, spec.key).succeeded
    assert strict.refusals < 1000


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error"])
def test_a_failed_container_list_marks_no_container_as_gone(strict: StrictProxy, status: str) -> None:
    strict.word, strict.status, strict.message = b"/containers/json", status, REMOVED
    with pytest.raises(Failed, match="2d5a"):
        Daemon(docker_options({"base_url": strict.url})).inspect("cm-it")


@pytest.mark.parametrize(
    "message",
    [
        "rpc error: code = Unavailable desc = error reading from server: EOF: unknown",
        "connection error: desc = transport: error while dialing: dial unix: connection refused",
        "write unix: connection reset by peer",
        "ttrpc: closed: unknown",
    ],
)
def test_an_attempt_whose_start_failed_inside_the_daemon_is_lost_and_keeps_its_container_until_the_loss_is_stored(
    harness: DockerHarness, executor: Executor, strict: StrictProxy, message: str
) -> None:
    """It may run. A worker that rescues the attempt before its end is stored must not find the name free."""
    strict.word, strict.status, strict.message = b"/start ", "500 Internal Server Error", message
    spec = harness.spec("true")
    for _ in range(2):
        with pytest.raises(Rejected) as rejection:
            executor.submit(spec)
        assert rejection.value.reason == "lost"
        assert len(harness.containers()) == 1
    executor.remove(spec.key, failed=True)
    assert harness.containers() == []

"""A request that the daemon does not take is its own job's fault, or nobody's: others are launched meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import DependencyUnavailable, Executor, Rejected, Unavailable

from ..executors.conformance import ended
from .docker_harness import DockerHarness
from .proxy import Proxy

pytestmark = pytest.mark.without_database
_BODY = b'{"message": "the daemon says so"}'


class StrictProxy(Proxy):
    """Takes no request to create a container with this word in its body: it answers, or breaks the connection."""

    WORD = b"unwelcome"
    status = ""

    def _pass_on(self, source: socket.socket, target: socket.socket, holds: Any, is_request: bool) -> None:
        refusing = _Refusing(source, self) if is_request else source
        super()._pass_on(refusing, target, holds, is_request)  # type: ignore[arg-type]


class _Refusing:
    """The client's end of a connection, whose requests are looked at."""

    def __init__(self, client: socket.socket, proxy: StrictProxy) -> None:
        self._client, self._proxy = client, proxy

    def recv(self, size: int) -> bytes:
        data = self._client.recv(size)
        if self._proxy.WORD not in data:
            return data
        if self._proxy.status:
            head = (
                f"HTTP/1.1 {self._proxy.status}\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n"
            )
            self._client.sendall(head.encode() + b"Connection: close\r\n\r\n" + _BODY)
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


def test_a_request_that_breaks_off_does_not_make_the_daemon_seem_away(
    harness: DockerHarness, executor: Executor
) -> None:
    with pytest.raises(DependencyUnavailable, match="It answers other requests"):
        executor.submit(harness.spec("true", environment={"A": "unwelcome"}))
    spec = harness.spec("true")
    executor.submit(spec)
    assert ended(executor, spec.key).succeeded


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Request Entity Too Large"])
def test_a_request_that_is_wrong_or_too_large_is_its_jobs_fault(
    harness: DockerHarness, strict: StrictProxy, executor: Executor, status: str
) -> None:
    strict.status = status
    with pytest.raises(Rejected, match="the daemon says so") as refusal:
        executor.submit(harness.spec("true", environment={"A": "unwelcome"}))
    assert refusal.value.reason == "start"


@pytest.mark.parametrize(
    "status", ["408 Request Timeout", "429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"]
)
def test_any_other_error_may_go_away_and_others_launch_meanwhile(
    harness: DockerHarness, strict: StrictProxy, executor: Executor, status: str
) -> None:
    strict.status = status
    with pytest.raises(DependencyUnavailable, match="the daemon says so"):
        executor.submit(harness.spec("true", environment={"A": "unwelcome"}))


def test_a_daemon_that_answers_nothing_is_away(harness: DockerHarness, strict: StrictProxy, executor: Executor) -> None:
    strict.lead_to("unix:///no/such/socket")
    with pytest.raises(Unavailable) as away:
        executor.submit(harness.spec("true"))
    assert not isinstance(away.value, DependencyUnavailable)

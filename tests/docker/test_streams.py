"""Streams that fall silent are opened anew, and output that is gone is said."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import Executor
from container_manager.executors.docker import DockerExecutor, followed_output, view
from container_manager.executors.docker.daemon import Daemon
from container_manager.executors.docker.followed_output import FollowedOutput
from container_manager.executors.docker.options import docker_options
from container_manager.testing.conformance import text, wait_until

from ..workers import eventually
from . import daemon
from .docker_harness import DockerHarness
from .proxy import Proxy
from .site import Site, attempts_of, output_of
from .test_connections import tls


class Mutable(Proxy):
    """A proxy whose connections can be kept open while nothing comes through them any more."""

    def __init__(self, daemon_url: str, folder: Path) -> None:
        self._threads: set[threading.Thread] = set()
        self._mute: set[threading.Thread] = set()
        self.asked: list[str] = []
        super().__init__(daemon_url, folder)

    def mute(self) -> None:
        """Swallow what comes from now on by the connections that there are."""
        self._mute |= self._threads

    def answer(self, data: bytes) -> bytes:
        # Each connection has a thread of its own.
        self._threads.add(threading.current_thread())
        return b"" if threading.current_thread() in self._mute else data

    def _look_at(self, data: bytes, holds: threading.Event) -> None:
        self.asked.append(data.split(b"\r\n", 1)[0].decode())
        super()._look_at(data, holds)

    def opened(self, pattern: str) -> int:
        """Return how many requests with such a first line have come."""
        return sum(1 for line in self.asked if re.search(pattern, line))


@pytest.fixture
def way(harness: DockerHarness, tmp_path: Path) -> Iterator[Mutable]:
    started = Mutable(harness.url, tmp_path)
    yield started
    started.close()


@pytest.fixture
def distant(harness: DockerHarness, way: Mutable) -> Iterator[DockerExecutor]:
    """An executor that reaches its daemon by that way."""
    # What is on its way when the connections fall silent takes as long as this.
    executor = harness.executor(base_url=way.url, timeout_seconds=15)
    yield executor
    executor.close()


def mute(way: Mutable, executor: DockerExecutor) -> None:
    """Silence the connections that there are; each later call by one of them fails after a moment."""
    way.mute()
    for api in executor._daemon._connected():
        api.timeout = 2


class Reader:
    """Reads an attempt's output on; each read is also a look whether its stream is silent."""

    def __init__(self, executor: Executor, handle: str) -> None:
        self._executor, self._handle, self._cursor = executor, handle, ""
        self.found = b""
        self.complete = False

    def read(self) -> bytes:
        page = self._executor.logs(self._handle, self._cursor, 1000)
        self._cursor, self.complete = page.cursor, page.complete
        self.found += text(list(page.chunks))
        return self.found


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_a_silent_log_stream_is_reopened_while_the_command_runs(
    harness: DockerHarness, distant: DockerExecutor, way: Mutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, end = harness.effects() / "go", harness.effects() / "end"
    for fifo in (go, end):
        os.mkfifo(fifo)
        fifo.chmod(0o666)
    spec = harness.spec("echo first; read word < $EFFECTS/go; echo second; read word < $EFFECTS/end")
    reader = Reader(distant, distant.submit(spec))
    wait_until(distant, lambda: reader.read() == b"first\n")
    mute(way, distant)
    monkeypatch.setattr(followed_output, "SILENCE_SECONDS", 0.5)
    go.write_text("on\n")
    # Neither lost nor twice.
    eventually(lambda: reader.read() == b"first\nsecond\n")
    assert not reader.complete
    assert way.opened("/logs.*follow=1") >= 2


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_a_silent_event_stream_is_reopened(
    distant: DockerExecutor, way: Mutable, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(distant, lambda: distant.observe().as_of)
    eventually(lambda: way.opened("/events") == 1)
    mute(way, distant)
    monkeypatch.setattr(view, "SILENCE_SECONDS", 0.5)
    eventually(lambda: way.opened("/events") >= 2)


@pytest.mark.shows("howto/docker.md#reach-a-daemon-elsewhere")
def test_tcp_keepalive_is_enabled_on_streams_of_a_daemon(tls_daemon: daemon.Daemon) -> None:
    reached = Daemon(docker_options({"base_url": tls_daemon.tls_url, "tls": tls(tls_daemon)}))
    with reached.stream("/events", {}) as answer:
        own: Any = answer._socket()
        found = [
            own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(own.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)),
        ]
    assert found == [1, 30, 10]


def test_the_output_of_a_container_that_is_gone_ends_with_a_line_that_says_so(harness: DockerHarness) -> None:
    """It has ended, and somebody, such as `docker container prune`, was quicker than the worker."""
    changed = threading.Event()
    output = FollowedOutput("cm-of-nobody", Daemon(docker_options({"base_url": harness.url})), changed.set)
    output.follow()
    assert changed.wait(60)
    page = output.page("", 1000, has_exited=True)
    assert [(chunk.stream, b"was removed before all" in chunk.data) for chunk in page.chunks] == [("system", True)]
    assert output.page(page.cursor, 1000, has_exited=True).complete


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_the_log_of_a_job_whose_container_was_removed_says_that_it_may_lack_its_end(site: Site, adopted: bool) -> None:
    site.gate()
    with site.worker("--slots", "1") as first:
        job = site.enqueue("echo begun; read word < $EFFECTS/go; echo never")
        eventually(lambda: output_of(job) == b"begun\n")
        eventually(lambda: job.attempts.exclude(handle="").exists())
        if adopted:
            site.kill(first)
        site.api.remove_container(f"cm-{site.install}-{job.pk.hex}-1", force=True)
        if not adopted:
            site.await_status(job, "failed")
    if adopted:
        with site.worker("--slots", "1"):
            site.await_status(job, "failed")
    assert attempts_of(job)[0][2] == "lost"
    assert output_of(job) == b"begun\n"
    said = output_of(job, "system")
    assert b"may lack its end" in said or b"removed before all of its output was read" in said

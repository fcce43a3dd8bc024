"""An executor adopts containers that another one has created, started or stopped."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from container_manager.executors.base import Executor, Phase, Unavailable
from container_manager.executors.docker.configuration import container_configuration
from container_manager.executors.docker.flavours import flavour_of
from container_manager.executors.docker.options import docker_options
from container_manager.testing.conformance import observation, wait_until

from .docker_harness import DockerHarness
from .proxy import Proxy, proxy


def has_exited(executor: Executor, key: str) -> bool:
    found = observation(executor, key)
    return found is not None and found.phase is Phase.EXITED


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_a_container_created_and_never_started_is_started_once(harness: DockerHarness, executor: Executor) -> None:
    spec = harness.spec("echo ran >> $EFFECTS/runs")
    flavour = flavour_of(harness.api.version())
    left = container_configuration(spec, docker_options(harness.options), install=harness.install, flavour=flavour)
    harness.api.create_container_from_config(left, name=spec.key)
    assert executor.submit(spec) == spec.key
    wait_until(executor, lambda: has_exited(executor, spec.key))
    heir = harness.executor()
    assert heir.submit(spec) == spec.key
    wait_until(heir, lambda: has_exited(heir, spec.key))
    heir.close()
    assert (harness.effects() / "runs").read_text() == "ran\n"


@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_an_executor_whose_heartbeat_is_overdue_starts_nothing(harness: DockerHarness, executor: Executor) -> None:
    executor.heartbeat(-1.0)
    with pytest.raises(Unavailable, match="lease has run out"):
        executor.submit(harness.spec("true"))
    assert harness.containers() == []
    executor.heartbeat(60.0)
    executor.submit(harness.spec("true"))
    assert len(harness.containers()) == 1


@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_a_launch_whose_attempt_was_lost_is_abandoned(harness: DockerHarness, tmp_path: Path) -> None:
    """As a worker that was frozen between two steps, was taken for dead, and has a lease again under another name."""
    mine = threading.Event()
    mine.set()
    with proxy(harness.url, tmp_path) as way, ThreadPoolExecutor(1) as pool:
        executor = harness.executor(base_url=way.url)
        way.hold("POST /[^ ]*/create", "answer")
        launch = pool.submit(executor.submit, replace(harness.spec("true"), is_wanted=mine.is_set))
        way.await_held()
        mine.clear()
        way.release()
        with pytest.raises(Unavailable, match="another worker's"):
            launch.result()
        with pytest.raises(Unavailable, match="another worker's"):
            executor.submit(replace(harness.spec("true"), is_wanted=mine.is_set))
        executor.close()
    assert [each["State"] for each in harness.containers()] == ["created"]


def test_a_stop_goes_on_when_its_executor_is_closed(harness: DockerHarness, executor: Executor) -> None:
    spec = harness.spec("trap 'touch $EFFECTS/told' TERM; touch $EFFECTS/deaf; while :; do sleep 0.1; done")
    executor.submit(spec)
    wait_until(executor, (harness.effects() / "deaf").exists)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(harness.url.removeprefix("unix://"))
        asking.sendall(
            f"POST /containers/{spec.key}/stop?t=10 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode()
        )
        wait_until(executor, (harness.effects() / "told").exists)
        assert not has_exited(executor, spec.key)
    wait_until(executor, lambda: has_exited(executor, spec.key))
    found = observation(executor, spec.key)
    assert found is not None
    assert found.exit is not None
    assert found.exit.signal == signal.SIGKILL


def test_a_very_long_grace_period_breaks_neither_the_daemon_nor_the_executor(harness: DockerHarness) -> None:
    executor = harness.executor()
    spec = harness.spec("trap 'exit 5' TERM; touch $EFFECTS/ready; while :; do sleep 0.1; done")
    executor.submit(spec)
    wait_until(executor, (harness.effects() / "ready").exists)
    executor.stop(spec.key, 2.0**62)
    wait_until(executor, lambda: has_exited(executor, spec.key))
    found = observation(executor, spec.key)
    assert found is not None
    assert found.exit is not None
    assert found.exit.code == 5
    executor.close()


@pytest.mark.shows("howto/docker.md#look-into-the-container-of-a-failed-attempt")
def test_a_failed_container_is_kept_for_keep_failed_seconds(harness: DockerHarness) -> None:
    spec, keeping = harness.spec("exit 3"), harness.executor(keep_failed_seconds=3600)
    keeping.submit(spec)
    wait_until(keeping, lambda: has_exited(keeping, spec.key))
    keeping.remove(spec.key, failed=True)
    keeping.close()
    assert len(harness.containers()) == 1
    # As after an hour: the one that is asked to remove it again keeps none for that long.
    later = harness.executor(keep_failed_seconds=0.001)
    later.remove(spec.key, failed=True)
    later.close()
    assert harness.containers() == []


class Ahead(Proxy):
    """The way to a daemon whose clock is a year ahead."""

    def answer(self, data: bytes) -> bytes:
        year = datetime.now(UTC).year
        return data.replace(b'"%d-' % year, b'"%d-' % (year + 1))


@pytest.mark.shows("howto/docker.md#look-into-the-container-of-a-failed-attempt")
def test_a_failed_container_is_kept_by_the_daemons_clock(harness: DockerHarness, tmp_path: Path) -> None:
    way = Ahead(harness.url, tmp_path)
    spec, keeping = harness.spec("exit 3"), harness.executor(base_url=way.url, keep_failed_seconds=3600)
    keeping.submit(spec)
    wait_until(keeping, lambda: has_exited(keeping, spec.key))
    keeping.remove(spec.key, failed=True)
    keeping.close()
    assert len(harness.containers()) == 1
    later = harness.executor(base_url=way.url, keep_failed_seconds=0.001)
    later.remove(spec.key, failed=True)
    later.close()
    way.close()
    assert harness.containers() == []

"""What another worker makes of a container that one has left behind."""

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
from container_manager.executors.docker.options import docker_options

from ..executors.conformance import observation, wait_until
from .proxy import Proxy, proxy
from .subject import DockerSubject


def has_exited(executor: Executor, key: str) -> bool:
    found = observation(executor, key)
    return found is not None and found.phase is Phase.EXITED


@pytest.mark.shows("explanation/worker.md#a-worker-is-killed")
def test_what_was_created_and_never_started_is_started_once(subject: DockerSubject, executor: Executor) -> None:
    spec = subject.spec("echo ran >> $EFFECTS/runs")
    left = container_configuration(spec, docker_options(subject.options), install=subject.install)
    subject.api.create_container_from_config(left, name=spec.key)
    assert executor.submit(spec) == spec.key
    wait_until(executor, lambda: has_exited(executor, spec.key))
    heir = subject.executor()
    assert heir.submit(spec) == spec.key
    wait_until(heir, lambda: has_exited(heir, spec.key))
    heir.close()
    assert (subject.effects() / "runs").read_text() == "ran\n"


@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_who_does_not_know_of_its_lease_starts_nothing(subject: DockerSubject, executor: Executor) -> None:
    executor.heartbeat(-1.0)
    with pytest.raises(Unavailable, match="lease has run out"):
        executor.submit(subject.spec("true"))
    assert subject.containers() == []
    executor.heartbeat(60.0)
    executor.submit(subject.spec("true"))
    assert len(subject.containers()) == 1


@pytest.mark.shows("explanation/worker.md#a-worker-freezes-and-wakes-up")
def test_who_has_lost_the_attempt_meanwhile_goes_no_further(subject: DockerSubject, tmp_path: Path) -> None:
    """As a worker that was frozen between two steps, was taken for dead, and has a lease again under another name."""
    mine = threading.Event()
    mine.set()
    with proxy(subject.url, tmp_path) as way, ThreadPoolExecutor(1) as pool:
        executor = subject.executor(base_url=way.url)
        way.hold("POST /[^ ]*/create", "answer")
        launch = pool.submit(executor.submit, replace(subject.spec("true"), is_wanted=mine.is_set))
        way.await_held()
        mine.clear()
        way.release()
        with pytest.raises(Unavailable, match="another worker's"):
            launch.result()
        with pytest.raises(Unavailable, match="another worker's"):
            executor.submit(replace(subject.spec("true"), is_wanted=mine.is_set))
        executor.close()
    assert [each["State"] for each in subject.containers()] == ["created"]


def test_a_stop_goes_on_though_whoever_asked_is_gone(subject: DockerSubject, executor: Executor) -> None:
    spec = subject.spec("trap 'touch $EFFECTS/told' TERM; touch $EFFECTS/deaf; while :; do sleep 0.1; done")
    executor.submit(spec)
    wait_until(executor, (subject.effects() / "deaf").exists)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(subject.url.removeprefix("unix://"))
        asking.sendall(
            f"POST /containers/{spec.key}/stop?t=5 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode()
        )
        wait_until(executor, (subject.effects() / "told").exists)
        assert not has_exited(executor, spec.key)
    wait_until(executor, lambda: has_exited(executor, spec.key))
    found = observation(executor, spec.key)
    assert found is not None
    assert found.exit is not None
    assert found.exit.signal == signal.SIGKILL


@pytest.mark.shows("howto/docker.md#say-what-jobs-may-have")
def test_a_job_has_no_longer_to_end_than_its_executor_allows(subject: DockerSubject) -> None:
    executor = subject.executor(grace_seconds=0.5)
    spec = subject.spec("trap '' TERM; touch $EFFECTS/deaf; while :; do sleep 0.1; done")
    executor.submit(spec)
    wait_until(executor, (subject.effects() / "deaf").exists)
    executor.stop(spec.key, 2**31 - 1)
    wait_until(executor, lambda: has_exited(executor, spec.key))
    executor.close()


@pytest.mark.shows("howto/docker.md#look-into-the-container-of-a-failed-attempt")
def test_the_container_of_a_failed_attempt_stays_for_as_long_as_it_is_told_to(subject: DockerSubject) -> None:
    spec, keeping = subject.spec("exit 3"), subject.executor(keep_failed_seconds=3600)
    keeping.submit(spec)
    wait_until(keeping, lambda: has_exited(keeping, spec.key))
    keeping.remove(spec.key, failed=True)
    keeping.close()
    assert len(subject.containers()) == 1
    # As after an hour: the one that is asked to remove it again keeps none for that long.
    later = subject.executor(keep_failed_seconds=0.001)
    later.remove(spec.key, failed=True)
    later.close()
    assert subject.containers() == []


class Ahead(Proxy):
    """The way to a daemon whose clock is a year ahead."""

    def answer(self, data: bytes) -> bytes:
        year = datetime.now(UTC).year
        return data.replace(b'"%d-' % year, b'"%d-' % (year + 1))


@pytest.mark.shows("howto/docker.md#look-into-the-container-of-a-failed-attempt")
def test_it_stays_for_as_long_by_its_daemons_clock(subject: DockerSubject, tmp_path: Path) -> None:
    way = Ahead(subject.url, tmp_path)
    spec, keeping = subject.spec("exit 3"), subject.executor(base_url=way.url, keep_failed_seconds=3600)
    keeping.submit(spec)
    wait_until(keeping, lambda: has_exited(keeping, spec.key))
    keeping.remove(spec.key, failed=True)
    keeping.close()
    assert len(subject.containers()) == 1
    later = subject.executor(base_url=way.url, keep_failed_seconds=0.001)
    later.remove(spec.key, failed=True)
    later.close()
    way.close()
    assert subject.containers() == []

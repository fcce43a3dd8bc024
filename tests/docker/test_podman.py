"""What the executor knows of podman, on a service of the tests' own.

The suites of the Docker executor run on it too: ``python -m tests.docker podman -- pytest tests/docker/test_exits.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from container_manager.executors.base import Executor, Phase, Rejected, Unavailable
from container_manager.executors.docker.flavours import DOCKER, DOCKER_BEFORE_25, PODMAN, flavour_of
from container_manager.testing.conformance import ended, observation, output, text, wait_until

from ..prerequisites import require
from . import image, podman
from .docker_harness import DockerHarness

pytestmark = pytest.mark.without_database


@pytest.fixture(scope="module")
def service(docker_url: str) -> Iterator[podman.Podman]:
    # Whoever runs the tests without the shared daemon does not want others either.
    obstacle = podman.obstacle() or image.obstacle()
    require(f"Podman ({obstacle})", not obstacle)
    with podman.Podman() as started:
        image.import_images(started.url)
        yield started


@pytest.fixture
def harness(service: podman.Podman, tmp_path: Path) -> Iterator[DockerHarness]:
    harness = DockerHarness(service.url, tmp_path)
    yield harness
    harness.clean_up()


def phase(executor: Executor, key: str) -> Phase | None:
    found = observation(executor, key)
    return None if found is None else found.phase


@pytest.mark.shows("howto/docker.md#use-podman")
def test_podman_is_named_as_the_engine_and_has_one_identity(harness: DockerHarness, executor: Executor) -> None:
    first, second = executor.check(), executor.check()
    assert first.ok
    assert first.message.startswith("Podman ")
    # The ID that podman tells is another one in each answer.
    assert first.engine == second.engine
    executor.observe()
    wait_until(executor, lambda: executor.observe().as_of > 0)
    assert executor.observe().engine == first.engine


def test_podman_is_recognised_by_the_components_of_its_version() -> None:
    assert flavour_of({"Components": [{"Name": "Podman Engine"}]}) is PODMAN
    components = [{"Name": "Engine"}, {"Name": "containerd"}]
    assert flavour_of({"Components": components, "ApiVersion": "1.44"}) is DOCKER
    assert flavour_of({"Components": components, "ApiVersion": "1.43"}) is DOCKER_BEFORE_25
    assert flavour_of({"ApiVersion": "1.51"}) is DOCKER
    assert flavour_of({"ApiVersion": "1.9"}) is DOCKER_BEFORE_25


@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_program_that_does_not_exist_in_the_image_is_reported_as_missing(harness: DockerHarness) -> None:
    """Podman's log keeps what its init process says of it in the pieces in which it was written, however many."""
    executor = harness.executor()
    specs = [harness.spec("", argv=("no-such-program",)) for _ in range(36)]
    # A busy machine makes more pieces.
    with ThreadPoolExecutor(6) as launches:
        list(launches.map(executor.submit, specs))
    found = [ended(executor, spec.key) for spec in specs]
    assert {(status.unstarted, status.message) for status in found} == {
        (True, "'no-such-program' could not be started: No such file or directory.")
    }


@pytest.mark.shows("howto/docker.md#use-podman")
def test_a_container_that_a_reboot_has_ended_is_not_run_again(service: podman.Podman, harness: DockerHarness) -> None:
    """Podman says of it that it is `created`."""
    executor = harness.executor()
    spec = harness.spec("echo ran >> $EFFECTS/runs; sleep 600")
    handle = executor.submit(spec)
    runs = harness.effects() / "runs"
    wait_until(executor, lambda: runs.exists() and runs.read_text())
    executor.close()
    service.forget_boot()
    service.start()
    heir = harness.executor()
    wait_until(heir, lambda: phase(heir, handle) is Phase.CREATED)
    with pytest.raises(Rejected) as rejection:
        heir.submit(spec)
    assert rejection.value.reason == "lost"
    # It answers with an error, since a restart that only seems to be one leaves a mount, and removes it.
    with suppress(Unavailable):
        heir.remove(spec.key)
    heir.close()
    assert (runs.read_text(), harness.containers()) == ("ran\n", [])


def test_a_container_that_may_have_been_started_when_the_service_died_is_not_run_again(
    service: podman.Podman, harness: DockerHarness
) -> None:
    executor = harness.executor()
    spec = harness.spec("echo ran >> $EFFECTS/runs")
    service.run(
        "create",
        "--name",
        spec.key,
        "--label",
        f"container-manager.install={harness.install}",
        f"docker.io/library/{image.IMAGE}",
        "true",
    )
    # Between these two the service may die.
    service.run("init", spec.key)
    # The second is a worker that rescues the attempt before its end is stored.
    for worker in (executor, harness.executor()):
        with pytest.raises(Rejected) as rejection:
            worker.submit(spec)
        assert rejection.value.reason == "lost"
    executor.remove(spec.key)
    executor.close()
    assert harness.containers() == []


def test_a_container_outlives_the_service(service: podman.Podman, harness: DockerHarness) -> None:
    executor = harness.executor()
    spec = harness.spec("echo early; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done; echo late; exit 3")
    handle = executor.submit(spec)
    executor.close()
    service.kill()
    (harness.effects() / "go").touch()
    service.start()
    heir = harness.executor()
    assert ended(heir, spec.key).code == 3
    assert text(output(heir, handle)) == b"early\nlate\n"
    heir.close()


@pytest.mark.shows("howto/docker.md#use-podman")
def test_gpus_are_refused_since_podman_would_ignore_the_request(harness: DockerHarness) -> None:
    executor = harness.executor(gpus=-1)
    with pytest.raises(Rejected):
        executor.submit(harness.spec("true", container={"gpus": 1}))
    executor.close()

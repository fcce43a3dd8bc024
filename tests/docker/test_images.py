"""Images are pulled by the policy, with the registry's login, and errors are classified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from container_manager.executors.base import Executor, LaunchSpec, Rejected
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import ended, new_key, output, text

from ..ports import free_port
from .docker_harness import DockerHarness, launch
from .registry import Registry

VARIABLE = "CM_REGISTRY_TESTS"


@pytest.fixture
def harness(
    docker_url: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DockerHarness]:
    monkeypatch.setenv(VARIABLE, registry.password)
    logins = {registry.address: {"username": registry.user, "password": f"env:{VARIABLE}"}}
    harness = DockerHarness(docker_url, tmp_path, images=["*"], registries=logins)
    forget(harness, reference(registry))
    yield harness
    harness.clean_up()


def reference(registry: Registry) -> str:
    return f"{registry.address}/team/job:1"


def forget(harness: DockerHarness, image: str) -> None:
    try:
        harness.api.remove_image(image, force=True)
    except docker.errors.ImageNotFound:
        return


def has(harness: DockerHarness, image: str) -> bool:
    try:
        harness.api.inspect_image(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def run(executor: Executor, image: str) -> tuple[str, str]:
    """Run a command in an image; return what it and the worker have printed."""
    spec = LaunchSpec(key=new_key(), argv=("echo", "ran"), job=JobSpec(image=image))
    handle = launch(executor, spec)
    chunks = output(executor, handle)
    assert ended(executor, spec.key).succeeded
    return text(chunks).decode(), text(chunks, "system").decode()


def refusal(harness: DockerHarness, image: str, **options: Any) -> tuple[str, str]:
    """Return why an image is refused: the reason, and what is said."""
    executor = harness.executor(**options)
    try:
        with pytest.raises(Rejected) as rejection:
            launch(executor, LaunchSpec(key=new_key(), argv=("true",), job=JobSpec(image=image)))
    finally:
        executor.close()
    assert harness.containers() == []
    return rejection.value.reason, str(rejection.value)


@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_missing_image_is_pulled_with_its_login_and_the_steps_are_in_the_log(
    harness: DockerHarness, registry: Registry
) -> None:
    executor = harness.executor()
    printed, steps = run(executor, reference(registry))
    assert printed == "ran\n"
    assert "Pulling from team/job" in steps
    assert "Downloaded newer image" in steps
    assert registry.password not in steps
    # It is there now: nothing is asked of the registry.
    assert run(executor, reference(registry)) == ("ran\n", "")
    executor.close()


@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_pull_policy_always_asks_the_registry_each_time(harness: DockerHarness, registry: Registry) -> None:
    executor = harness.executor(pull="always")
    assert "Downloaded newer image" in run(executor, reference(registry))[1]
    assert "Image is up to date" in run(executor, reference(registry))[1]
    executor.close()


@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_pull_policy_never_uses_only_local_images(harness: DockerHarness, registry: Registry) -> None:
    assert refusal(harness, reference(registry), pull="never") == (
        "image",
        f"There is no image '{reference(registry)}', and 'pull' is 'never'.",
    )
    assert not has(harness, reference(registry))


@pytest.mark.shows("explanation/worker.md#a-job-fails", "howto/docker.md#pull-from-a-private-registry")
def test_an_image_that_the_registry_lacks_fails_the_job_for_good(harness: DockerHarness, registry: Registry) -> None:
    for image in (f"{registry.address}/team/job:no-such-tag", f"{registry.address}/no/such:1"):
        reason, said = refusal(harness, image)
        assert reason == "image"
        assert image in said


@pytest.mark.parametrize("given", ["wrong password", "no login"])
@pytest.mark.shows("explanation/worker.md#a-job-fails", "howto/docker.md#pull-from-a-private-registry")
def test_a_rejected_registry_login_fails_the_job_for_good_and_shows_no_password(
    harness: DockerHarness, registry: Registry, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {}
    if given == "wrong password":
        monkeypatch.setenv(VARIABLE, "not-the-password")
    else:
        options["registries"] = {}
    reason, said = refusal(harness, reference(registry), **options)
    assert reason == "image"
    assert "not-the-password" not in said
    assert reference(registry) in said


@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_missing_registry_password_makes_the_launch_try_again(
    harness: DockerHarness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    reason, said = refusal(harness, reference(registry), pull_retry_seconds=0.1)
    assert reason == "unavailable"
    assert VARIABLE in said


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid"])
@pytest.mark.shows("explanation/worker.md#a-job-fails", "howto/docker.md#pull-from-a-private-registry")
def test_an_unreachable_registry_makes_the_launch_try_again(harness: DockerHarness, host: str) -> None:
    image = f"{host.format(port=free_port())}/team/job:1"
    reason, said = refusal(harness, image, pull_retry_seconds=0.1)
    assert reason == "unavailable"
    assert "could not be pulled" in said


@pytest.mark.parametrize("image", ["UPPER/case", "a b", "-x", "name:"])
def test_a_container_with_an_invalid_image_name_is_rejected(harness: DockerHarness, image: str) -> None:
    assert refusal(harness, image)[0] == "start"


@pytest.mark.parametrize("image", ["UPPER/case", "a b", "-x"])
def test_an_invalid_image_name_is_not_pulled(harness: DockerHarness, image: str) -> None:
    assert refusal(harness, image, pull="always")[0] == "image"

"""Images are pulled ahead of jobs and removed when nothing uses them, beside launches, if the options say so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from container_manager.conf import AppSettings
from container_manager.executors.base import LaunchSpec
from container_manager.executors.docker import DockerExecutor, upkeep
from container_manager.executors.docker.options import DockerOptions
from container_manager.executors.docker.upkeep import Image, superfluous
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import ended, new_key

from ..workers import eventually
from .docker_harness import DockerHarness, launch
from .image import IMAGE, import_image
from .proxy import proxy
from .registry import Registry
from .site import Site
from .test_images import VARIABLE, forget, has, run


def image(name: str, *, size: int = 10, used_at: float) -> Image:
    return Image(id=name, tags=(name,), digests=(f"{name}@sha256:0",), size=size, used_at=used_at)


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ({"unused_images_seconds": 5000}, ["old"]),
        ({"unused_images_seconds": 50}, ["old", "middle", "new"]),
        ({"unused_images_bytes": 30}, []),
        ({"unused_images_bytes": 29}, ["old"]),
        ({"unused_images_bytes": 10}, ["old", "middle"]),
        # What was used just now may be about to be used again.
        ({"unused_images_bytes": 1}, ["old", "middle"]),
        ({"unused_images_seconds": 5000, "unused_images_bytes": 15}, ["old", "middle"]),
    ],
)
@pytest.mark.shows("howto/docker.md#keep-images")
def test_images_that_are_unused_for_too_long_or_take_too_much_space_are_removed(
    options: dict[str, Any], removed: list[str]
) -> None:
    unused = [image("old", used_at=0.0), image("middle", used_at=9_000.0), image("new", used_at=9_900.0)]
    found = superfluous(unused, DockerOptions(**options), now=10_000.0)
    assert [each.id for each in found] == removed


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("tags", "digests", "removable"),
    [
        (["team/job:1"], ["team/job@sha256:0"], True),
        # A pull has moved its tag to a newer one.
        ([], ["team/job@sha256:0"], True),
        ([], ["other/job@sha256:0"], False),
        ([], ["team/job@sha256:0", "other/job@sha256:0"], False),
        (["team/job:2"], ["team/job@sha256:0"], False),
        (["team/job:1", "other/job:1"], ["team/job@sha256:0"], False),
        # No registry has it.
        (["team/job:1"], [], False),
    ],
)
@pytest.mark.shows("howto/docker.md#keep-images")
def test_only_images_that_jobs_may_run_and_a_registry_has_are_removed(
    tags: list[str], digests: list[str], removable: bool
) -> None:
    found = Image(id="i", tags=tuple(tags), digests=tuple(digests), size=1, used_at=0.0)
    assert upkeep.is_a_jobs(found, DockerOptions(images=["team/*:1"])) is removable


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prepull": ["debian:12"]}, "'prepull' must name images that the option 'images' allows"),
        ({"prepull": ["python:3.*"]}, "not a pattern: 'python:3"),
        ({"prepull": "python:3.13"}, "'prepull' must be a list of images"),
        ({"unused_images_seconds": 0}, "'unused_images_seconds' must be a positive number, or None"),
        ({"unused_images_bytes": 1.5}, "'unused_images_bytes' must be a positive number, or None"),
        ({"unused_images_bytes": 1, "pull": "never"}, "would be missing for good"),
    ],
)
def test_an_option_of_upkeep_that_is_wrong_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        DockerExecutor.check_options({"images": ["python:3.*"], **options}, AppSettings(install="shop"))


@pytest.fixture
def login(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv(VARIABLE, registry.password)
    return {registry.address: {"username": registry.user, "password": f"env:{VARIABLE}"}}


@pytest.fixture
def harness(docker_url: str, tmp_path: Path, registry: Registry, login: dict[str, Any]) -> Iterator[DockerHarness]:
    """An installation whose images are those of the registry alone, and that has none of them yet."""
    harness = DockerHarness(docker_url, tmp_path, images=[f"{registry.address}/team/*"], registries=login)
    forget(harness, f"{registry.address}/team/job:1")
    yield harness
    harness.clean_up()
    for name in ("job:1", "job:2", "job:3"):
        forget(harness, f"{registry.address}/team/{name}")


def ended_upkeep(executor: DockerExecutor) -> None:
    """Have the executor look after its images, and return when it has."""
    executor._upkeep._due_at = 0.0
    executor.maintain()
    thread = executor._upkeep._thread
    assert thread is not None
    thread.join()


@pytest.mark.shows("howto/docker.md#keep-images")
def test_a_missing_image_is_pulled_ahead_of_jobs(
    harness: DockerHarness, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    missing, unknown = f"{registry.address}/team/job:1", f"{registry.address}/team/unknown:1"
    executor = harness.executor(prepull=[unknown, missing])
    with caplog.at_level(logging.INFO, logger=upkeep.__name__):
        ended_upkeep(executor)
        assert has(harness, missing)
        ended_upkeep(executor)
    # What is there is not pulled again; what cannot be had is said, and holds up nothing.
    assert caplog.text.count(f"Pulling image {missing} ahead of jobs") == 1
    assert caplog.text.count("Upkeep of images: The image") == 2
    executor.close()


@pytest.mark.shows("howto/docker.md#keep-images")
def test_only_images_of_jobs_that_a_registry_has_and_nothing_uses_are_removed(
    harness: DockerHarness, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Images of their own: one that has a name besides, which no job may use, stays.
    for number in (2, 3):
        import_image(harness.url, f"cm-test:{number}", changes=[f"LABEL number={number}"])
        registry.push(harness.url, f"team/job:{number}", image=f"cm-test:{number}")
        forget(harness, f"cm-test:{number}")
    named, kept, old = (f"{registry.address}/team/job:{tag}" for tag in (1, 2, 3))
    built = f"{registry.address}/team/built:1"
    import_image(harness.url, built, changes=["LABEL number=4"])
    executor = harness.executor()
    run(executor, named)
    executor.close()
    harness.clean_up()
    executor = harness.executor(prepull=[kept], unused_images_seconds=0.001)
    monkeypatch.setattr(upkeep, "_FRESH_SECONDS", 0.0)
    spec = LaunchSpec(key=new_key(), argv=("true",), job=JobSpec(image=old))
    launch(executor, spec)
    ended(executor, spec.key)
    with caplog.at_level(logging.INFO, logger=upkeep.__name__):
        for _ in range(2):
            ended_upkeep(executor)
        assert has(harness, old), "A container uses it."
        executor.remove(spec.key)
        # First it is seen unused, then it was unused for long enough.
        for _ in range(2):
            ended_upkeep(executor)
    assert caplog.text.count("Removed image") == caplog.text.count(f"Removed image {old}") == 1
    assert [has(harness, name) for name in (old, kept, named, built)] == [False, True, True, True]
    executor.close()
    forget(harness, built)


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("howto/docker.md#keep-images")
def test_jobs_run_while_an_image_is_pulled_ahead_of_them(
    docker_url: str, tmp_path: Path, registry: Registry, login: dict[str, Any]
) -> None:
    ahead = f"{registry.address}/team/job:1"
    site = Site(docker_url, tmp_path, images=[IMAGE, ahead], registries=login, prepull=[ahead])
    forget(site, ahead)
    with proxy(site.url, tmp_path) as way:
        way.hold("POST /[^ ]*/images/create", "answer")
        with site.worker("--slots", "1", url=way.url):
            way.await_held()
            site.await_status(site.enqueue("true"), "completed")
            site.assert_clean()
            way.release()
            eventually(lambda: has(site, ahead))
    site.clean_up()

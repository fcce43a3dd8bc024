"""Pulls from a registry that misbehaves: what is tried again and for how long, and what goes on beside them."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from container_manager.executors.base import Rejected, Unavailable, Waiting
from container_manager.executors.docker import DockerExecutor
from container_manager.models import ContainerJob, JobAttempt
from container_manager.queue import explain
from container_manager.testing.conformance import output, text

from ..workers import eventually
from . import faulty_registry
from .docker_harness import DockerHarness, launch
from .faulty_registry import Fault, OddRegistry, Part
from .site import Site, attempts_of, output_of

_PATIENCE_SECONDS = 60
_STALL = Fault(stalls=True, share=0.0)


@pytest.fixture
def odd() -> Iterator[OddRegistry]:
    with faulty_registry.running() as registry:
        yield registry


@pytest.fixture
def harness(docker_url: str, tmp_path: Path, odd: OddRegistry) -> Iterator[DockerHarness]:
    harness = DockerHarness(docker_url, tmp_path, images=["*"])
    yield harness
    harness.clean_up()


@pytest.fixture
def executor(harness: DockerHarness) -> Iterator[DockerExecutor]:
    executor = harness.executor()
    yield executor
    executor.close()


@pytest.fixture
def site(docker_url: str, tmp_path: Path, odd: OddRegistry) -> Iterator[Site]:
    site = Site(docker_url, tmp_path, images=["*"])
    yield site
    site.clean_up()


@pytest.mark.without_database
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401, code="UNAUTHORIZED"),
        Fault(status=401),
        Fault(status=403, code="DENIED"),
        Fault(status=403),
        Fault(status=404, code="MANIFEST_UNKNOWN"),
        Fault(status=404, code="NAME_UNKNOWN"),
        Fault(status=404, body=b"<html>Not here</html>"),
    ],
    ids=lambda fault: f"{fault.status} {fault.code or fault.body.decode() or 'without a body'}",
)
@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_pull_that_the_registry_refuses_fails_the_job_for_good(
    harness: DockerHarness, executor: DockerExecutor, odd: OddRegistry, fault: Fault
) -> None:
    image = odd.add("team/job:1")
    odd.fail("team/job", "manifest", fault)
    with pytest.raises(Rejected) as refused:
        launch(executor, harness.spec("true", image=image))
    assert refused.value.reason == "image"
    assert image in str(refused.value)


@pytest.mark.without_database
def test_an_image_for_another_platform_fails_the_job_for_good(
    harness: DockerHarness, executor: DockerExecutor, odd: OddRegistry
) -> None:
    image = odd.add("team/job:1", architecture="s390x", in_list=True)
    with pytest.raises(Rejected, match="no matching manifest") as refused:
        launch(executor, harness.spec("true", image=image))
    assert refused.value.reason == "image"


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("manifest", Fault(status=429, code="TOOMANYREQUESTS", headers={"Retry-After": "1"})),
        ("manifest", Fault(status=429, body=b"Too many requests")),
        ("manifest", Fault(status=500, code="UNKNOWN")),
        ("manifest", Fault(status=520)),
        ("manifest", Fault(status=408)),
        ("manifest", Fault(share=0.5)),
        ("manifest", Fault(broken=True)),
        ("config", Fault(status=404, code="BLOB_UNKNOWN")),
        ("layer", Fault(broken=True)),
        ("manifest", _STALL),
        ("layer", Fault(stalls=True, share=0.5)),
    ],
    ids=lambda value: (
        value
        if isinstance(value, str)
        else f"{value.status or ''}{' cut' if value.share < 1 else ''}{' stalls' if value.stalls else ''}"
        f"{' broken' if value.broken else ''} {value.code}".strip()
    ),
)
@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_pull_with_a_temporary_error_is_retried_and_the_log_names_the_error(
    harness: DockerHarness, odd: OddRegistry, part: Part, fault: Fault
) -> None:
    # The answers with an error come once for each request of one try.
    times = 2 if part == "manifest" and not fault.stalls else 1
    image = odd.add("team/job:1", layer_bytes=100_000)
    odd.fail("team/job", part, Fault(**{**_fields(fault), "times": times}))
    executor = harness.executor(**({"pull_stall_seconds": 2.0} if fault.stalls else {}))
    chunks = output(executor, launch(executor, harness.spec("echo ran", image=image)))
    assert text(chunks) == b"ran\n"
    system = text(chunks, "system").decode()
    assert "it is tried again in 1 s: " in system
    assert ("It made no progress for 2 s." in system) == fault.stalls
    executor.close()


def _fields(fault: Fault) -> dict[str, object]:
    return {name: getattr(fault, name) for name in Fault.__slots__}


@pytest.mark.without_database
def test_pulls_are_retried_up_to_a_limit_and_the_failure_names_the_last_error(
    harness: DockerHarness, odd: OddRegistry
) -> None:
    image = odd.add("team/job:1")
    odd.fail("team/job", "manifest", Fault(status=429, code="TOOMANYREQUESTS"))
    executor = harness.executor(pull_retry_seconds=0.5)
    with pytest.raises(Rejected, match="toomanyrequests") as refused:
        launch(executor, harness.spec("true", image=image))
    assert refused.value.reason == "unavailable"
    executor.close()


def waiting(harness: DockerHarness, executor: DockerExecutor, image: str) -> tuple[str, Waiting]:
    """Submit an attempt that has to wait for its image; return its key, and until when."""
    spec = harness.spec("true", image=image)
    with pytest.raises(Waiting, match=image) as wait:
        executor.submit(spec)
    return spec.key, wait.value


@pytest.mark.without_database
def test_attempts_that_need_the_same_image_wait_for_one_pull(harness: DockerHarness, odd: OddRegistry) -> None:
    image = odd.add("team/job:1")
    odd.fail("team/job", "manifest", _STALL)
    executor = harness.executor(pull_stall_seconds=600.0)
    first, *others = (waiting(harness, executor, image) for _ in range(5))
    odd.await_asked("team/job", "manifest")
    # One that is stopped does not wait any more, and the others do.
    executor.stop(first[0], 0.0)
    assert isinstance(first[1].until.exception(_PATIENCE_SECONDS), Rejected)
    assert not any(wait.until.done() for _, wait in others)
    assert odd.asked("team/job", "manifest") == 1
    for key, wait in others:
        executor.release(key)
        assert isinstance(wait.until.exception(_PATIENCE_SECONDS), Unavailable)
    # Nobody waits for that pull now: the next one does not have to wait for its end.
    odd.recover()
    launch(executor, harness.spec("true", image=image))
    executor.close()


@pytest.mark.without_database
def test_an_executor_that_is_closed_waits_for_no_pull(harness: DockerHarness, odd: OddRegistry) -> None:
    executor, image = harness.executor(), odd.add("team/job:1")
    odd.fail("team/job", "layer", _STALL)
    _, wait = waiting(harness, executor, image)
    odd.await_asked("team/job", "layer")
    executor.close()
    assert isinstance(wait.until.exception(_PATIENCE_SECONDS), Unavailable)


def stall(odd: OddRegistry, *names: str) -> list[str]:
    """Make images whose pulls stall."""
    images = [odd.add(f"{name}:1") for name in names]
    for name in names:
        odd.fail(name, "manifest", _STALL)
    return images


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_stalled_pulls_block_no_other_launch_and_no_removal(site: Site, odd: OddRegistry) -> None:
    images = stall(odd, *(f"team/stalls{number}" for number in range(6)))
    with site.worker("--slots", "8"):
        stalled = [site.enqueue("true", image=image) for image in images]
        for image in images:
            odd.await_asked(image.partition("/")[2].partition(":")[0], "manifest")
        # Its image is there. It is launched, it ends, and its container is removed.
        site.await_status(site.enqueue("true"), "completed")
        eventually(lambda: site.containers() == [])
        # They say what they wait for.
        eventually(lambda: JobAttempt.objects.exclude(waiting_for="").count() == len(stalled))
        listing = StringIO()
        call_command("container", "ps", stdout=listing)
        assert f"waits for the image '{images[0]}'" in listing.getvalue()
        for job, image in zip(stalled, images, strict=True):
            job.refresh_from_db()
            assert explain(job).summary == f"Its launch waits for the image '{image}'."
            job.mark_as_cancelled()
        for job in stalled:
            site.await_status(job, "cancelled")
            assert b"Waits for the image" in output_of(job, "system")
        site.assert_clean()


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("howto/docker.md#pull-from-a-private-registry")
def test_a_jobs_timeout_does_not_count_the_wait_for_its_image(site: Site, odd: OddRegistry) -> None:
    image = odd.add("team/job:1")
    odd.fail("team/job", "manifest", Fault(stalls=True, share=0.0, times=1))
    site.options["pull_stall_seconds"] = 4.0
    with site.worker():
        job = site.await_status(site.enqueue("sleep 600", image=image, timeout_seconds=1), "failed")
        site.assert_clean()
    attempt = job.attempts.get()
    # It has run for as long as it may: there is an exit code.
    assert (attempt.reason, attempt.exit_code is None, attempt.waiting_for) == ("timeout", False, "")
    assert attempt.waited_seconds >= 4


@pytest.mark.django_db(transaction=True)
def test_when_a_worker_dies_while_a_job_waits_for_its_image_the_next_worker_continues_the_wait(
    site: Site, odd: OddRegistry
) -> None:
    (image,) = stall(odd, "team/job")
    with site.worker() as process:
        job = site.enqueue("true", image=image)
        odd.await_asked("team/job", "manifest")
        eventually(lambda: JobAttempt.objects.exclude(waiting_for="").exists())
        site.kill(process)
    odd.recover()
    with site.worker():
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows("explanation/worker.md#a-job-fails")
def test_a_job_whose_image_could_not_be_pulled_in_time_fails_as_unavailable(site: Site, odd: OddRegistry) -> None:
    image = odd.add("team/job:1")
    odd.fail("team/job", "manifest", Fault(status=429, code="TOOMANYREQUESTS"))
    site.options["pull_retry_seconds"] = 0.5
    with site.worker():
        job = site.await_status(site.enqueue("true", image=image), "failed")
        site.assert_clean()
    assert (job.failure_reason, attempts_of(job)) == ("unavailable", [(1, None, "unavailable")])
    assert "could not be pulled in 0.5 s of tries: toomanyrequests" in job.last_error
    assert ContainerJob.objects.get(pk=job.pk).get_failure_reason_display() != "Worker lost"

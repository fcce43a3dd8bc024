"""Results of containers: read from their own layer when they have ended, whatever the job has made of the file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from container_manager.executors.base import ExitStatus
from container_manager.executors.docker import DockerExecutor
from container_manager.executors.docker.options import docker_options
from container_manager.testing.conformance import ended, output, text

from .docker_harness import DockerHarness

_MOST_BYTES = 1000


@pytest.fixture
def reporting(harness: DockerHarness) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(
        docker_options({**harness.options, "results": True}),
        install=harness.install,
        secrets_directory="/none",
        most_result_bytes=_MOST_BYTES,
    )
    yield executor
    executor.close()


def end_of(executor: DockerExecutor, harness: DockerHarness, script: str, **fields: object) -> ExitStatus:
    handle = executor.submit(harness.spec(script, **fields))
    status = ended(executor, handle)
    assert status.code == 0, text(output(executor, handle))
    return status


@pytest.mark.shows("howto/results.md#in-a-container")
@pytest.mark.parametrize("user", ["", "4321:4321"])
def test_the_result_of_a_job_is_what_its_container_has_written(
    harness: DockerHarness, reporting: DockerExecutor, user: str
) -> None:
    container = {"user": user} if user else {}
    status = end_of(reporting, harness, 'echo "[1, 2]" >"$CONTAINER_MANAGER_RESULT"', container=container)
    assert (status.result, status.result_refused) == (b"[1, 2]\n", "")


def test_a_container_that_writes_nothing_has_an_empty_result(harness: DockerHarness, reporting: DockerExecutor) -> None:
    assert end_of(reporting, harness, "true").result == b""


@pytest.mark.parametrize(
    ("script", "refused"),
    [
        (f"head -c {_MOST_BYTES + 1} /dev/zero >$R", f"It has more than {_MOST_BYTES} bytes."),
        ("truncate -s 100G $R || dd if=/dev/zero of=$R bs=1 count=1 seek=100000000000", "It has more than"),
        ("rm $R; ln -s /etc/passwd $R", "It is a symbolic link."),
        ("rm $R; ln -s /nowhere $R", "It is a symbolic link."),
        ("rm $R; mkfifo $R", "It is no regular file."),
        ("rm $R; mkdir $R; echo 1 >$R/file", "It is no regular file."),
    ],
)
def test_a_result_that_is_no_small_regular_file_is_refused_with_an_explanation(
    harness: DockerHarness, reporting: DockerExecutor, script: str, refused: str
) -> None:
    status = end_of(reporting, harness, f"R=$CONTAINER_MANAGER_RESULT; {script}")
    assert status.result is None
    assert status.result_refused.startswith(refused)


def test_a_container_that_removes_the_file_has_no_result(harness: DockerHarness, reporting: DockerExecutor) -> None:
    status = end_of(reporting, harness, "rm $CONTAINER_MANAGER_RESULT")
    assert (status.result, status.result_refused) == (None, "")


def test_a_container_with_read_only_files_has_no_result_file(harness: DockerHarness, reporting: DockerExecutor) -> None:
    script = 'test -z "$CONTAINER_MANAGER_RESULT"'
    assert end_of(reporting, harness, script, container={"read_only": True}).result is None

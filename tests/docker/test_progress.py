"""Progress of containers: their files are asked for while they run and at their end, and no more than read."""

from __future__ import annotations

import pytest

from container_manager.executors.docker import DockerExecutor
from container_manager.jobs.progress_lines import PROGRESS_BYTES, Progress, latest_progress
from container_manager.testing.conformance import ended

from ..polling import eventually
from .docker_harness import DockerHarness


@pytest.fixture
def reporting(harness: DockerHarness) -> DockerExecutor:
    return harness.executor(progress=True)


@pytest.mark.slow
@pytest.mark.shows("howto/progress.md#in-a-container")
def test_any_worker_reads_the_progress_of_a_running_container(
    harness: DockerHarness, reporting: DockerExecutor
) -> None:
    script = """
        echo "1/2 waiting" >"$CONTAINER_MANAGER_PROGRESS"
        while test ! -e "$EFFECTS/go"; do sleep 0.1; done
        echo "2/2 done" >>"$CONTAINER_MANAGER_PROGRESS"
    """
    handle = reporting.submit(harness.spec(script, container={"user": "4321:4321"}))
    # The other one adopts the container.
    for executor in (reporting, harness.executor(progress=True)):
        eventually(lambda executor=executor: executor.progress(handle) == b"1/2 waiting\n")
    (harness.effects() / "go").touch()
    assert ended(reporting, handle).progress == b"1/2 waiting\n2/2 done\n"


def test_the_last_lines_of_a_long_progress_file_are_read(harness: DockerHarness, reporting: DockerExecutor) -> None:
    script = 'seq 1 9999 | sed "s:$:/9999:" >"$CONTAINER_MANAGER_PROGRESS"'
    data = ended(reporting, reporting.submit(harness.spec(script))).progress
    assert data is not None
    assert len(data) <= PROGRESS_BYTES
    assert latest_progress(data) == Progress(done=9999, total=9999)


@pytest.mark.parametrize(
    "script",
    [
        "rm $P",
        "rm $P; ln -s /etc/passwd $P",
        "rm $P; mkfifo $P",
        "rm $P; mkdir $P; echo 1/2 >$P/file",
        "truncate -s 100G $P || dd if=/dev/zero of=$P bs=1 count=1 seek=100000000000",
    ],
)
def test_anything_but_a_small_regular_file_is_no_progress(
    harness: DockerHarness, reporting: DockerExecutor, script: str
) -> None:
    status = ended(reporting, reporting.submit(harness.spec(f"P=$CONTAINER_MANAGER_PROGRESS; {script}")))
    assert (status.code, status.progress) == (0, None)


@pytest.mark.shows("howto/progress.md#in-a-container")
def test_there_is_no_progress_file_without_the_option_or_with_read_only_files(
    harness: DockerHarness, reporting: DockerExecutor
) -> None:
    script = 'test -z "$CONTAINER_MANAGER_PROGRESS" && test ! -e /container-manager-progress'
    plain = harness.executor()
    handle = plain.submit(harness.spec(script))
    assert plain.progress(handle) is None
    status = ended(plain, handle)
    assert (status.code, status.progress) == (0, None)
    status = ended(reporting, reporting.submit(harness.spec(script, container={"read_only": True})))
    assert (status.code, status.progress) == (0, None)

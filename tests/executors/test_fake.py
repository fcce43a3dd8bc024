"""The fake executor passes what applies to it of the conformance suite, with the suite's scripts as scripted runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils.module_loading import import_string

from container_manager.conf import PROCESS_EXECUTOR
from container_manager.executors.base import Executor, ExitStatus, LaunchSpec, Rejected
from container_manager.testing import FakeExecutor, FakeRun, fake_jobs
from container_manager.testing.conformance import Conformance, Harness

pytestmark = pytest.mark.without_database


class FakeHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def executor(self) -> FakeExecutor:
        return FakeExecutor()

    def effects(self) -> Path:
        return self._folder

    def play(self, spec: LaunchSpec) -> FakeRun:
        """Do what a script of the suite does, as far as anybody sees it."""
        if spec.argv == ("no-such-program",):
            raise Rejected("start", "There is no program no-such-program.")
        script = spec.argv[-1]
        for name in re.findall(r">> \$EFFECTS/(\w+)", script):
            with (self._folder / name).open("a") as file:
                file.write("ran\n")
        stdout = b"".join(word.encode() + b"\n" for word in re.findall(r"echo (\w+)(?=;|$)", script))
        stderr = b"".join(word.encode() + b"\n" for word in re.findall(r"echo (\w+) >&2", script))
        exit_code = re.search(r"^exit (\d+)|; exit (\d+)", script)
        match script:
            case "env":
                stdout = b"".join(f"{name}={value}\n".encode() for name, value in spec.environment.items())
            case _ if "line $i" in script:
                stdout = b"".join(b"line %d\n" % number for number in range(3000))
            case _ if script.startswith("printf"):
                stdout = b"\xff\xfe\x00\x01no newline"
            case _ if script.startswith("head"):
                stdout = b"\0" * 10_000_000
            case "kill -KILL $$":
                return FakeRun(exit=ExitStatus(signal=9))
            case _ if "sleep 600" in script or "while :" in script:
                return FakeRun(exit=None)
        return FakeRun(exit=int(exit_code[1] or exit_code[2]) if exit_code else 0, stdout=stdout, stderr=stderr)


class TestFakeExecutor(Conformance):
    # It has no files, and nothing that a signal could tell something.
    test_secret_files_are_in_memory_where_the_job_alone_finds_them_and_gone_with_it = None  # type: ignore[assignment]
    test_stopping_lets_a_command_end_itself = None  # type: ignore[assignment]
    test_a_command_that_ignores_term_is_killed = None  # type: ignore[assignment]
    test_a_grace_period_can_be_ended_before_its_time = None  # type: ignore[assignment]

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[FakeHarness]:
        harness = FakeHarness(tmp_path)
        with fake_jobs(harness.play):
            yield harness

    @pytest.mark.parametrize(("grace", "signal"), [(10.0, 15), (0.0, 9)])
    def test_a_run_without_an_end_ends_by_the_signal_it_is_stopped_with(
        self, harness: FakeHarness, executor: Executor, grace: float, signal: int
    ) -> None:
        spec = harness.spec("sleep 600")
        executor.stop(executor.submit(spec), grace)
        [seen] = executor.observe().attempts
        assert seen.exit == ExitStatus(signal=signal)


@pytest.mark.parametrize("executor", [PROCESS_EXECUTOR, "container_manager.executors.docker.DockerExecutor"])
def test_executors_of_this_package_deliver_secret_files(executor: str) -> None:
    """The conformance suite skips its test of that for executors that do not."""
    assert import_string(executor).capabilities.secret_files

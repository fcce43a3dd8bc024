"""The Python executor: the conformance suite, and what only applies to tasks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from container_manager.executors.base import LaunchSpec, Rejected, Unavailable, Waiting
from container_manager.executors.python import PythonExecutor, task_server_link
from container_manager.jobs.spec import JobSpec
from container_manager.testing.conformance import Conformance, Harness, ended, new_key, output, text

from ..polling import PATIENCE_SECONDS, eventually
from ..processes import has_ended
from .secret_folders import secret_folders

RUN_SCRIPT = "tests.task_functions.run_script"


class PythonHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def executor(self) -> PythonExecutor:
        executor = PythonExecutor()
        eventually(lambda: executor.check().ok)
        return executor

    def effects(self) -> Path:
        return self._folder

    def spec(self, script: str, **fields: Any) -> LaunchSpec:
        return super().spec(script, task=RUN_SCRIPT, task_arguments={"args": [script]}, **fields)

    def secret_folders(self, key: str) -> list[Path]:
        return secret_folders(key)


@pytest.fixture
def harness(tmp_path: Path) -> PythonHarness:
    return PythonHarness(tmp_path)


pytestmark = pytest.mark.without_database


# Each test has an executor of its own, which imports the project.
@pytest.mark.slow
class TestConformance(Conformance):
    # A task that is not there fails with an error of its own.
    test_a_missing_program_is_said_to_be_missing_and_leaves_nothing = None


def launch(task: str, *args: Any, **fields: Any) -> LaunchSpec:
    return LaunchSpec(key=new_key(), argv=(), job=JobSpec(task=task, task_arguments={"args": args}, **fields))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that the task server imports, in a folder of the path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "preloaded_by_a_test.py"


@pytest.fixture
def gated(module: Path, tmp_path: Path) -> tuple[str, Path]:
    """The name of a module whose import lasts until something is written to the pipe."""
    os.mkfifo(gate := tmp_path / "gate")
    module.write_text(f"import pathlib\npathlib.Path({str(gate)!r}).read_text()\n")
    return module.stem, gate


def test_a_launch_waits_for_the_import_of_the_project_without_a_thread(gated: tuple[str, Path]) -> None:
    name, gate = gated
    executor = PythonExecutor(preload=[name])
    try:
        spec = launch("tests.task_functions.add", 1, 2)
        with pytest.raises(Waiting, match="imports the project") as waiting:
            executor.submit(spec)
        gate.write_text("on")
        waiting.value.until.result(PATIENCE_SECONDS)
        executor.submit(spec)
        assert ended(executor, spec.key).result == b"3"
    finally:
        executor.close()


def test_a_waiting_launch_ends_when_it_is_stopped_or_its_executor_is_closed(gated: tuple[str, Path]) -> None:
    executor = PythonExecutor(preload=[gated[0]])
    waits = []
    try:
        for _ in range(2):
            spec = launch("tests.task_functions.add", 1, 2)
            with pytest.raises(Waiting) as waiting:
                executor.submit(spec)
            waits.append(waiting.value.until)
            if len(waits) == 1:
                executor.stop(spec.key, 0.0)
        assert isinstance(waits[0].exception(PATIENCE_SECONDS), Rejected)
        assert not waits[1].done()
    finally:
        executor.close()
    assert isinstance(waits[1].exception(PATIENCE_SECONDS), Unavailable)


def test_a_job_that_is_no_task_and_one_that_needs_isolation_are_rejected() -> None:
    executor = PythonExecutor()
    with pytest.raises(Rejected, match="runs tasks only"):
        executor.submit(LaunchSpec(key=new_key(), argv=("true",)))
    with pytest.raises(Rejected, match="image"):
        executor.submit(launch("tests.task_functions.add", image="app:1"))
    executor.close()


def test_an_import_error_of_the_project_is_reported_to_waiting_launches_and_the_import_is_retried(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_server_link, "_PAUSE_SECONDS", 3600.0)
    module.write_text("raise LookupError('of the new code')")
    executor = PythonExecutor(preload=[module.stem])
    try:
        with pytest.raises(Waiting) as waiting:
            executor.submit(launch("tests.task_functions.add", 1, 2))
        error = waiting.value.until.exception(PATIENCE_SECONDS)
        assert isinstance(error, Unavailable)
        assert "could not import the project: LookupError: of the new code" in str(error)
        # Not at once: most often it would fail again.
        with pytest.raises(Unavailable, match="of the new code"):
            executor.submit(launch("tests.task_functions.add", 1, 2))
    finally:
        executor.close()


def test_threads_that_the_import_has_started_are_warned_of_by_name(
    module: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module.write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(3600,), name='of-the-import', daemon=True).start()\n"
    )
    executor = PythonExecutor(preload=[module.stem])
    try:
        eventually(lambda: executor.check().ok)
        spec = launch("tests.task_functions.add", 1, 2)
        executor.submit(spec)
        assert ended(executor, spec.key).result == b"3"
    finally:
        executor.close()
    said = capfd.readouterr().err
    assert "has started threads: of-the-import" in said
    assert "DeprecationWarning" not in said


@pytest.mark.shows("tutorial/tasks.md#what-to-know-of-the-python-executor")
def test_a_task_of_a_module_that_the_task_server_has_not_imported_says_so_in_its_output(module: Path) -> None:
    module.write_text("from tests.task_functions import task\n@task\ndef nothing():\n    pass\n")
    for preload, says in (([], True), ([module.stem], False)):
        executor = PythonExecutor(preload=preload)
        try:
            eventually(lambda executor=executor: executor.check().ok)
            spec = launch(f"{module.stem}.nothing")
            executor.submit(spec)
            said = text(output(executor, spec.key), "stderr").decode()
            assert ended(executor, spec.key).result == b"null"
        finally:
            executor.close()
        assert (f"The module {module.stem} was imported for this task alone" in said) is says, said


@pytest.mark.shows("tutorial/tasks.md#what-to-know-of-the-python-executor")
def test_after_sighup_new_tasks_run_the_new_code_and_running_tasks_keep_the_old(module: Path, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    os.mkfifo(go)
    code = f"""
import pathlib
from tests.task_functions import task
@task
def version(waits):
    if waits:
        pathlib.Path({str(started)!r}).touch()
        pathlib.Path({str(go)!r}).read_text()
    return VERSION
"""
    module.write_text(f"VERSION = 1\n{code}")
    executor = PythonExecutor(preload=[module.stem])
    try:
        eventually(lambda: executor.check().ok)
        old = launch(f"{module.stem}.version", True)
        executor.submit(old)
        eventually(started.exists)
        before = executor._warden.process
        assert before is not None
        # Of another size: the cache of the compiled module goes by size and second.
        module.write_text(f"VERSION = 'two'\n{code}")
        os.kill(before.pid, signal.SIGHUP)
        eventually(lambda: executor._warden.process is not before)
        new = launch(f"{module.stem}.version", False)
        executor.submit(new)
        assert ended(executor, new.key).result == b'"two"'
        go.write_text("on")
        assert ended(executor, old.key).result == b"1"

        def is_retired() -> bool:
            executor.heartbeat(600.0)
            return before.poll() is not None

        eventually(is_retired)
    finally:
        executor.close()


def process_ahead(executor: PythonExecutor) -> psutil.Process:
    """Return the process that waits for the next task, once there is one and no task runs."""

    def only_one() -> psutil.Process | None:
        server = executor._warden.process
        assert server is not None
        # One may end meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess):
            processes = psutil.Process(server.pid).children(recursive=True)
            found = [(process, name) for process in processes if (name := process.name()) != "cm-keeper"]
            if [name for _, name in found] == ["cm-task-next"]:
                return found[0][0]
        return None

    return eventually(only_one)  # type: ignore[no-any-return]


@pytest.fixture
def says_which_process_it_has(module: Path) -> str:
    module.write_text(
        "import os, random\n"
        "from tests.task_functions import task\n"
        "@task\n"
        "def identity():\n"
        "    return [os.getpid(), os.getsid(0), random.random()]\n"
    )
    return module.stem


def identity(executor: PythonExecutor, module: str) -> list[Any]:
    spec = launch(f"{module}.identity")
    executor.submit(spec)
    return json.loads(ended(executor, spec.key).result or b"null")  # type: ignore[no-any-return]


def test_each_task_has_a_process_that_was_forked_ahead_for_it_alone(says_which_process_it_has: str) -> None:
    executor = PythonExecutor(preload=[says_which_process_it_has])
    try:
        eventually(lambda: executor.check().ok)
        numbers = set()
        for _ in range(3):
            ahead = process_ahead(executor).pid
            pid, session, number = identity(executor, says_which_process_it_has)
            assert (pid, session) == (ahead, ahead)
            assert has_ended(ahead)
            numbers.add(number)
        # Each has a random state of its own.
        assert len(numbers) == 3
    finally:
        executor.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_while_it_waits_for_a_task_is_replaced(
    says_which_process_it_has: str, number: int
) -> None:
    executor = PythonExecutor(preload=[says_which_process_it_has])
    try:
        eventually(lambda: executor.check().ok)
        killed = process_ahead(executor).pid
        os.kill(killed, number)
        eventually(lambda: has_ended(killed))
        assert identity(executor, says_which_process_it_has)[0] != killed
    finally:
        executor.close()


@pytest.mark.parametrize("victim", ["keeper", "task server", "executor"])
def test_a_process_that_waits_for_a_task_ends_with_its_task_server(victim: str) -> None:
    executor = PythonExecutor()
    try:
        eventually(lambda: executor.check().ok)
        ahead = process_ahead(executor)
        keeper = ahead.parent()
        assert keeper is not None
        assert keeper.name() == "cm-keeper"
        if victim == "keeper":
            keeper.kill()
        elif victim == "task server":
            os.kill(keeper.ppid(), signal.SIGKILL)
        else:
            executor.close()
        eventually(lambda: has_ended(ahead.pid))
    finally:
        executor.close()


def test_a_process_that_waits_for_a_task_when_the_code_is_reloaded_runs_no_task(says_which_process_it_has: str) -> None:
    executor = PythonExecutor(preload=[says_which_process_it_has])
    try:
        eventually(lambda: executor.check().ok)
        before, ahead = executor._warden.process, process_ahead(executor).pid
        assert before is not None
        os.kill(before.pid, signal.SIGHUP)
        eventually(lambda: executor._warden.process is not before)
        assert identity(executor, says_which_process_it_has)[0] != ahead
        eventually(lambda: has_ended(ahead))
    finally:
        executor.close()

"""Tasks that a worker runs, in the Python executor and as processes: what their results say afterwards.

One worker runs them all, once for the module.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection
from django.test import override_settings

from container_manager.models import ContainerJob, JobAttempt
from container_manager.tasks import ContainerTaskResult

from . import task_functions
from .polling import PATIENCE_SECONDS, eventually
from .workers import worker

pytestmark = [pytest.mark.django_db, pytest.mark.usual_statements]
INHERITED = ["DJANGO_SETTINGS_MODULE", "PYTHONPATH", *(name for name in os.environ if name.startswith("CM_"))]
EXECUTORS = {
    "default": {"BACKEND": "container_manager.executors.python.PythonExecutor"},
    "process": {
        "BACKEND": "container_manager.executors.process.ProcessExecutor",
        "OPTIONS": {"inherit_environment": [*INHERITED, "CM_WORKER_DATABASE", "CM_WORKER_LEASE_SECONDS"]},
    },
}
SETTINGS = {"EXECUTORS": EXECUTORS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    result: ContainerTaskResult
    job: ContainerJob
    attempts: list[JobAttempt]
    output: bytes

    @property
    def error(self) -> tuple[str, str]:
        [error] = self.result.errors
        return error.exception_class_path, error.traceback


def enqueue_all(folder: Path) -> dict[str, Any]:
    f = task_functions
    results = {
        "add": f.add.enqueue(1, second=2),
        "async": f.add_asynchronously.enqueue(3, 4),
        "context": f.describe.enqueue("the \u00fcmlaut"),
        "progress": f.report_its_progress.enqueue(),
        "retried": f.succeed_at_the_second_attempt.using(backend="retried").enqueue(),
        "not json": f.return_what_is_no_json.enqueue(),
        "too much": f.return_too_much.enqueue(),
        "timeout": f.sleep.using(backend="hurried").enqueue(600, str(folder / "timeout")),
        "memory": f.allocate.using(backend="small").enqueue(2048),
        "processes": f.leave_processes_behind.enqueue(str(folder / "daemon")),
        "descriptors": f.close_all_descriptors.enqueue(),
        "output": f.print_much.enqueue(50_000),
        "leak 1": f.leak.enqueue("first"),
        "leak 2": f.leak.enqueue("second"),
        "database": f.use_the_database.enqueue(),
        "unknown": f.add.enqueue(1, 1),
        "process: add": f.add.using(backend="processes").enqueue(5, 6),
        "process: error": f.fail.using(backend="processes").enqueue("error"),
        "process: os._exit": f.fail.using(backend="processes").enqueue("os._exit"),
    }
    for kind in ("error", "unpicklable", "group", "long", "exit", "os._exit", "kill"):
        results[kind] = f.fail.enqueue(kind)
    # As after a deploy that has removed it.
    ContainerJob.objects.filter(pk=results["unknown"].id).update(task="tests.task_functions.removed")
    return results


@pytest.fixture(scope="module")
def ran(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("tasks")
    settings = override_settings(CONTAINER_MANAGER=SETTINGS)
    with django_db_blocker.unblock(), settings:
        try:
            results = enqueue_all(folder)
            variables = {"CM_WORKER_SETTINGS": json.dumps(SETTINGS)}
            with worker("--drain", "--slots", "4", log=folder / "log", **variables) as process:
                assert process.wait(timeout=3 * PATIENCE_SECONDS) == 0, (folder / "log").read_text()
            # In one list, so that what a worker without patience leaves is seen.
            assert not ContainerJob.objects.exclude(status__in=("completed", "failed")).exists()
            found = {}
            for name, result in results.items():
                if name != "unknown":
                    result.refresh()
                job = ContainerJob.objects.get(pk=result.id)
                attempts = list(job.attempts.order_by("number"))
                found[name] = Ran(result=result, job=job, attempts=attempts, output=job.output())
            yield found, folder
        finally:
            ContainerJob.objects.all().delete()
            connection.close()


@pytest.fixture
def of(ran: Any) -> Any:
    return ran[0].__getitem__


@pytest.fixture
def folder(ran: Any) -> Path:
    return ran[1]  # type: ignore[no-any-return]


def test_a_task_that_returns_is_successful_with_its_value_in_one_attempt(of: Any) -> None:
    result = of("add").result
    assert (result.status, result.return_value, result.attempts, result.errors) == ("SUCCESSFUL", 3, 1, [])
    assert (result.args, result.kwargs) == ([1], {"second": 2})
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
    assert result.worker_ids == [of("add").attempts[0].worker]
    assert of("add").job.result == 3


def test_an_asynchronous_task_runs(of: Any) -> None:
    assert of("async").result.return_value == 7


@pytest.mark.shows("howto/progress.md#in-a-task")
def test_a_task_reports_its_progress(of: Any) -> None:
    assert of("progress").attempts[0].progress == {"done": 3, "total": 10, "text": "resizing"}


def test_a_task_gets_its_context_and_its_output_is_kept(of: Any) -> None:
    result = of("context").result
    assert result.return_value == {
        "attempt": 1,
        "id": result.id,
        "status": "RUNNING",
        "enqueued": True,
        "name": "the \u00fcmlaut",
    }
    assert "describing the \u00fcmlaut\n".encode() in of("context").output


def test_a_task_is_tried_again_and_its_errors_are_kept(of: Any) -> None:
    result = of("retried").result
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 2, 2)
    [error] = result.errors
    assert error.exception_class is ValueError
    assert "not yet" in error.traceback
    assert result.started_at < result.last_attempted_at


def test_an_exception_fails_the_task_with_its_class_and_traceback(of: Any) -> None:
    result = of("error").result
    assert result.status == "FAILED"
    path, traceback = of("error").error
    assert path == "builtins.ValueError"
    assert "in fail" in traceback
    assert "ValueError: failed: error" in traceback
    assert b"ValueError: failed: error" in of("error").output
    assert of("error").job.last_error == "ValueError: failed: error"
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_an_exception_that_can_be_neither_pickled_nor_shown_fails_the_task(of: Any) -> None:
    path, traceback = of("unpicklable").error
    assert path == "tests.task_functions.Unpicklable"
    assert "exception str() failed" in traceback


def test_an_exception_group_fails_the_task_with_all_of_its_exceptions(of: Any) -> None:
    path, traceback = of("group").error
    assert path == "builtins.ExceptionGroup"
    assert "first of them" in traceback
    assert "second of them" in traceback
    assert of("group").job.last_error == "ExceptionGroup: several (2 sub-exceptions)"


def test_a_traceback_that_is_too_long_is_truncated_at_its_beginning(of: Any) -> None:
    path, traceback = of("long").error
    assert path == "builtins.ValueError"
    assert traceback.endswith(" the end\n")
    assert 5_000 < len(traceback) < 64 * 1024


def test_a_task_that_calls_sys_exit_fails_with_it(of: Any) -> None:
    assert of("exit").error[0] == "builtins.SystemExit"


@pytest.mark.parametrize("name", ["os._exit", "process: os._exit"])
def test_a_task_that_leaves_its_process_with_exit_code_0_has_failed(of: Any, name: str) -> None:
    path, text = of(name).error
    assert of(name).result.status == "FAILED"
    assert path == "container_manager.tasks.errors.TaskProcessEnded"
    assert "before the function had returned" in text


def test_a_task_that_is_killed_has_failed_with_a_named_error(of: Any) -> None:
    path, text = of("kill").error
    assert path == "container_manager.tasks.errors.TaskProcessEnded"
    assert "SIGKILL" in text


def test_a_result_that_is_no_json_fails_the_task(of: Any) -> None:
    assert of("not json").error[0] == "builtins.TypeError"


def test_a_result_that_is_too_large_fails_the_task_with_both_sizes(of: Any) -> None:
    path, traceback = of("too much").error
    assert path == "builtins.ValueError"
    assert "It has 1000002 bytes, and 65536 are allowed." in traceback


def test_a_task_that_exceeds_its_timeout_runs_its_finally_blocks_and_fails_with_a_named_error(
    of: Any, folder: Path
) -> None:
    path, text = of("timeout").error
    assert path == "container_manager.tasks.errors.TaskTimedOut"
    assert "Ran for longer than 5 s" in text
    assert (folder / "timeout.finally").exists()


def test_a_task_that_reaches_its_memory_limit_fails_with_memory_error(of: Any) -> None:
    assert of("memory").error[0] == "builtins.MemoryError"


def test_processes_that_a_task_leaves_behind_are_gone(of: Any) -> None:
    assert of("processes").result.status == "SUCCESSFUL"
    daemon, command = of("processes").result.return_value
    assert not psutil.pid_exists(daemon)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == command]


def test_a_task_that_closes_all_descriptors_still_returns_its_result(of: Any) -> None:
    assert (of("descriptors").result.status, of("descriptors").result.return_value) == ("SUCCESSFUL", 5)


def test_head_and_tail_of_a_tasks_long_output_are_kept(of: Any) -> None:
    assert of("output").result.return_value == 50_000
    assert b"line 0 x" in of("output").output
    assert b"line 49999 x" in of("output").output
    assert len(of("output").output) < 2 * 1024 * 1024


def test_objects_that_a_task_leaves_in_memory_do_not_reach_the_next_task(of: Any) -> None:
    assert (of("leak 1").result.return_value, of("leak 2").result.return_value) == (["first"], ["second"])


def test_a_task_uses_the_database_by_a_connection_of_its_own(of: Any) -> None:
    assert of("database").result.return_value == {"inherited": [], "status": "running"}


def test_a_task_whose_function_was_removed_fails_and_says_so(of: Any) -> None:
    [attempt] = of("unknown").attempts
    assert of("unknown").job.status == "failed"
    assert attempt.result["exception"] == "container_manager.tasks.errors.TaskNotFound"
    assert "There is no task tests.task_functions.removed" in attempt.result["traceback"]


def test_the_same_task_runs_as_a_process_of_its_own(of: Any) -> None:
    assert of("process: add").result.return_value == 11
    assert of("process: error").error[0] == "builtins.ValueError"


def by_itself(function: str, *arguments: Any) -> list[str]:
    """Return a command that runs a task, without a job and a worker."""
    program = (
        "import django, json, sys; django.setup(); from container_manager.tasks.task_run import run_task;"
        "sys.exit(run_task(sys.argv[1], json.loads(sys.argv[2])))"
    )
    return [sys.executable, "-c", program, f"tests.task_functions.{function}", json.dumps({"args": arguments})]


@pytest.mark.without_database
def test_a_task_that_is_being_stopped_gets_no_second_signal_while_it_cleans_up(tmp_path: Path) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    os.mkfifo(gate)
    with subprocess.Popen(by_itself("sleep_and_clean_up", 600, str(begun), str(gate))) as process:
        eventually(begun.exists)
        process.send_signal(signal.SIGTERM)
        eventually((tmp_path / "begun.told").exists)
        process.send_signal(signal.SIGTERM)
        # Returns once the task waits for it; one that is gone would never do so.
        opened = eventually(lambda: process.poll() is not None or opened_for_writing(gate))
        assert process.poll() is None
        os.write(opened, b"in time")
        os.close(opened)
        assert process.wait(timeout=PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert (tmp_path / "begun.finally").read_text() == "in time"


def opened_for_writing(fifo: Path) -> int | None:
    """Return a descriptor of a FIFO, or None as long as nobody reads there."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("function", "arguments", "said", "last"),
    [("fail", ["long"], "long ", " the end\n"), ("add", ["x" * 600, "y" * 600], "What the task", " are allowed.\n")],
    ids=["traceback", "result"],
)
def test_a_tasks_result_is_no_larger_than_its_executor_accepts(
    tmp_path: Path, function: str, arguments: list[str], said: str, last: str
) -> None:
    """A cluster cuts off what is longer, and so leaves no JSON."""
    handout, most = tmp_path / "result", 1000
    variables = {"CONTAINER_MANAGER_RESULT": str(handout), "CONTAINER_MANAGER_RESULT_BYTES": str(most)}
    done = subprocess.run(
        by_itself(function, *arguments), check=False, capture_output=True, env={**os.environ, **variables}
    )
    assert done.returncode == 1, done.stderr
    assert most - 20 < handout.stat().st_size <= most
    handed_out = json.loads(handout.read_text())
    assert handed_out["exception"] == "builtins.ValueError"
    assert said in handed_out["message"]
    assert handed_out["traceback"].startswith("…")
    assert handed_out["traceback"].endswith(last)

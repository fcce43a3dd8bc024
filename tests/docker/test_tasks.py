"""Tasks in containers: the same functions, with this host's interpreter and project mounted into the test image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from container_manager.tasks import (
    ContainerTask,
    TaskCancelled,
    TaskNotStarted,
    TaskOutOfMemory,
    TaskProcessEnded,
    TaskTimedOut,
)

from .. import task_functions
from ..task_surroundings import COMMAND, finished, folders, job_of, open_database, variables
from ..workers import eventually
from .image import IMAGE
from .site import LEASE_SECONDS, Site

pytestmark = pytest.mark.django_db(transaction=True)


class TaskSite(Site):
    """An installation whose containers have a Python and the project of these tests."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self._mounted = folders()
        for name, path in self._mounted.items():
            self.options["volumes"][name] = {"source": path, "read_only": False, "allow_root": True}

    def executors_setting(self, url: str | None = None) -> dict[str, Any]:
        # What tasks are declared for that name no other; here it runs none.
        default = {"BACKEND": "container_manager.executors.python.PythonExecutor"}
        return {"default": default, **super().executors_setting(url)}

    def task(self, task: Any, **asked: Any) -> ContainerTask:
        """Return a task that asks for a container."""
        options = {
            "executor": "docker",
            "image": IMAGE,
            "command": COMMAND,
            "environment": variables(self.settings(), lease_seconds=LEASE_SECONDS),
            "container": {"volumes": {"effects": str(self._effects), **self._mounted}},
            "grace": 60,
            **asked,
        }
        made: ContainerTask = task.using(**options)
        return made


@pytest.fixture
def tasks(docker_url: str, tmp_path: Path) -> Iterator[TaskSite]:
    made = TaskSite(docker_url, tmp_path)
    settings = {"INSTALL": made.install, "EXECUTORS": made.executors_setting()}
    # Without its capabilities, root in a container does not reach a socket in a folder that is its server's alone.
    open_database()
    with override_settings(CONTAINER_MANAGER=settings):
        yield made
    made.clean_up()


@pytest.mark.shows("tutorial/tasks.md#in-a-container")
def test_tasks_in_containers_have_the_same_outcomes_as_on_the_host(tasks: TaskSite) -> None:
    f = task_functions
    results = {
        "add": tasks.task(f.add).enqueue(5, second=6),
        "context": tasks.task(f.describe).enqueue("name"),
        "retried": tasks.task(f.succeed_at_the_second_attempt, retries=1).enqueue(),
        "group": tasks.task(f.fail).enqueue("group"),
        "os._exit": tasks.task(f.fail).enqueue("os._exit"),
        "kill": tasks.task(f.fail).enqueue("kill"),
        "memory": tasks.task(f.touch, memory="200m").enqueue(1024),
        "no image": tasks.task(f.add, image="not:allowed").enqueue(1, 2),
        "timeout": tasks.task(f.sleep, timeout=5).enqueue(600, str(tasks.effects() / "timeout")),
    }
    with tasks.worker("--slots", "4"):
        for result in results.values():
            eventually(lambda result=result: finished(result))
        tasks.assert_clean()
    assert results["add"].return_value == 11, job_of(results["add"]).output()
    assert results["context"].return_value["enqueued"]
    assert b"describing name\n" in job_of(results["context"]).output()
    assert (results["retried"].return_value, results["retried"].attempts) == (2, 2)
    [error] = results["group"].errors
    assert error.exception_class_path == "builtins.ExceptionGroup"
    assert "second of them" in error.traceback
    ends = {name: result.errors[-1].exception_class for name, result in results.items() if result.errors}
    assert ends.pop("retried") is ValueError
    assert ends.pop("group") is ExceptionGroup
    assert ends == {
        "os._exit": TaskProcessEnded,
        "kill": TaskProcessEnded,
        "memory": TaskOutOfMemory,
        "no image": TaskNotStarted,
        "timeout": TaskTimedOut,
    }


def test_a_task_in_a_container_that_is_cancelled_while_it_runs_is_stopped(tasks: TaskSite) -> None:
    path = tasks.effects() / "pid"
    result = tasks.task(task_functions.sleep).enqueue(600, str(path))
    with tasks.worker():
        eventually(lambda: path.exists() or finished(result))
        assert path.exists(), job_of(result).output()
        result.cancel(actor="alice")
        assert (result.status, result.errors[-1].exception_class) == ("FAILED", TaskCancelled)
        tasks.assert_clean()
    # It was asked before it was killed.
    assert path.with_name("pid.finally").exists()


def test_a_task_whose_worker_is_killed_goes_on_and_another_worker_stores_its_result(tasks: TaskSite) -> None:
    go, begun = tasks.gate(), tasks.effects() / "begun"
    result = tasks.task(task_functions.wait_for).enqueue(str(go), str(begun))
    with tasks.worker() as process:
        eventually(lambda: begun.exists() or finished(result))
        assert begun.exists(), job_of(result).output()
        tasks.kill(process)
    with tasks.worker():
        go.write_text("on")
        eventually(lambda: finished(result))
        tasks.assert_clean()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "on", 1)

"""Tasks in pods: the same functions, with this host's interpreter and project as volumes of the test image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from ..task_surroundings import COMMAND, finished, folder_of_database, folders, job_of, open_database, variables
from ..workers import eventually
from .cluster_site import LEASE_SECONDS, ClusterSite
from .cluster_under_test import ClusterUnderTest

pytestmark = pytest.mark.django_db(transaction=True)


class PodTaskSite(ClusterSite):
    """An installation whose pods have a Python and the project of these tests."""

    def __init__(self, cluster: ClusterUnderTest, namespace: str, folder: Path) -> None:
        super().__init__(cluster, namespace, folder)
        self.options["images"] = [cluster.image]
        self._mounted = folders()
        for name, path in self._mounted.items():
            self._claim(name, Path(path))
            self.options["volumes"][name] = {"claim": name, "read_only": path != folder_of_database()}
        # A folder of the image that is root's alone hides what is mounted below it.
        self.options["volumes"]["home"] = {"empty_dir_bytes": 1024 * 1024}
        self._mounted["home"] = "/root"

    def executors_setting(self, kubeconfig: Path | None, more: Mapping[str, Any]) -> dict[str, Any]:
        # What tasks are declared for that name no other; here it runs none.
        default = {"BACKEND": "container_manager.executors.python.PythonExecutor"}
        return {"default": default, **super().executors_setting(kubeconfig, more)}

    def task(self, task: Any, **asked: Any) -> ContainerTask:
        """Return a task that asks for a pod."""
        options = {
            "executor": "kubernetes",
            "image": self.cluster.image,
            "command": COMMAND,
            "environment": variables(self.settings(), lease_seconds=LEASE_SECONDS),
            "container": {"volumes": {"effects": str(self._effects), **self._mounted}},
            "grace": 60,
            **asked,
        }
        made: ContainerTask = task.using(**options)
        return made

    def story(self, result: Any) -> str:
        """Return what happened to a task, for whoever reads why its test has failed."""
        job = job_of(result)
        return f"{job.output().decode()}\n{self._story(job)}"


@pytest.fixture
def tasks(cluster: ClusterUnderTest, namespace: str, tmp_path: Path) -> Iterator[PodTaskSite]:
    made = PodTaskSite(cluster, namespace, tmp_path)
    # A pod's program is no root.
    open_database()
    with override_settings(CONTAINER_MANAGER={"INSTALL": made.install, "EXECUTORS": made.executors_setting(None, {})}):
        yield made
    made.clean_up()


@pytest.mark.shows("tutorial/tasks.md#in-a-container")
def test_tasks_in_pods_have_the_same_outcomes_as_on_the_host(tasks: PodTaskSite) -> None:
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
        "no JSON": tasks.task(f.return_what_is_no_json).enqueue(),
    }
    with tasks.worker("--slots", "4"):
        for result in results.values():
            eventually(lambda result=result: finished(result))
        tasks.assert_clean()
    assert results["add"].return_value == 11, tasks.story(results["add"])
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
        "no JSON": TypeError,
    }


@pytest.mark.shows("howto/results.md#in-a-container")
def test_a_task_in_a_pod_fails_with_a_result_too_long_for_the_cluster_and_keeps_the_end_of_a_long_traceback(
    tasks: PodTaskSite,
) -> None:
    """A pod hands out less than 4 KiB: a longer result fails its task, and of a long traceback the end is kept."""
    f = task_functions
    kept, large, longest, failed = (
        tasks.task(f.add).enqueue("x" * 2000, "y" * 2000),
        tasks.task(f.add).enqueue("x" * 2000, "y" * 3000),
        tasks.task(f.return_too_much).enqueue(),
        tasks.task(f.fail).enqueue("long"),
    )
    with tasks.worker("--slots", "4"):
        for result in (kept, large, longest, failed):
            eventually(lambda result=result: finished(result))
        tasks.assert_clean()
    assert (kept.status, kept.return_value) == ("SUCCESSFUL", "x" * 2000 + "y" * 2000)
    for result in (large, longest):
        assert (result.status, result.errors[-1].exception_class) == ("FAILED", ValueError), tasks.story(result)
        assert "cannot be stored" in result.errors[-1].traceback
    [error] = failed.errors
    assert error.exception_class is ValueError
    assert error.traceback.startswith("…")
    assert error.traceback.rstrip().endswith(" the end")


def test_a_task_in_a_pod_that_is_cancelled_while_it_runs_is_stopped(tasks: PodTaskSite) -> None:
    path = tasks.effects() / "pid"
    result = tasks.task(task_functions.sleep).enqueue(600, str(path))
    with tasks.worker():
        eventually(lambda: path.exists() or finished(result))
        assert path.exists(), tasks.story(result)
        result.cancel(actor="alice")
        assert (result.status, result.errors[-1].exception_class) == ("FAILED", TaskCancelled)
        tasks.assert_clean()
    # It was asked before it was killed.
    assert path.with_name("pid.finally").exists()


def test_a_task_whose_worker_is_killed_goes_on_in_its_pod_and_another_worker_stores_its_result(
    tasks: PodTaskSite,
) -> None:
    go, begun = tasks.gate(), tasks.effects() / "begun"
    result = tasks.task(task_functions.wait_for).enqueue(str(go), str(begun))
    with tasks.worker() as process:
        eventually(lambda: begun.exists() or finished(result))
        assert begun.exists(), tasks.story(result)
        tasks.kill(process)
    with tasks.worker():
        go.write_text("on")
        eventually(lambda: finished(result))
        tasks.assert_clean()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "on", 1)

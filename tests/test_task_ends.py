"""Tasks that are cancelled while they run, and whose worker or task server is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.test import override_settings

from container_manager.store.consistency import examine
from container_manager.tasks import TaskCancelled, TaskLost

from .polling import PATIENCE_SECONDS
from .processes import has_ended
from .task_functions import sleep, sleep_in_the_first_attempt
from .test_task_runs import SETTINGS
from .workers import eventually, worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usual_statements]
VARIABLES = {"CM_WORKER_SETTINGS": json.dumps(SETTINGS)}


@pytest.fixture(autouse=True)
def settings_of_the_worker() -> Iterator[None]:
    with override_settings(CONTAINER_MANAGER=SETTINGS):
        yield


def pid_in(path: Path) -> int:
    return int(eventually(lambda: path.exists() and path.read_text()))


def refreshed(result: Any) -> Any:
    result.refresh()
    return result


def test_a_task_that_is_cancelled_while_it_runs_is_stopped_and_has_failed_with_a_named_error(tmp_path: Path) -> None:
    result = sleep.enqueue(600, str(tmp_path / "pid"))
    with worker(log=tmp_path / "log", **VARIABLES):
        task = pid_in(tmp_path / "pid")
        assert refreshed(result).status == "RUNNING"
        result.cancel(actor="alice")
        assert (result.status, result.errors[-1].exception_class) == ("FAILED", TaskCancelled)
        eventually(lambda: has_ended(task))
    # It was asked before it was killed.
    assert (tmp_path / "pid.finally").exists()


def test_a_task_whose_server_is_killed_is_lost_and_runs_again_in_a_new_one(tmp_path: Path) -> None:
    result = sleep_in_the_first_attempt.using(backend="retried").enqueue(str(tmp_path / "pid"))
    with worker(log=tmp_path / "log", **VARIABLES) as process:
        task = pid_in(tmp_path / "pid")
        [server] = psutil.Process(process.pid).children()
        assert server.name() == "cm-task-server"
        server.kill()
        eventually(lambda: refreshed(result).is_finished)
        assert has_ended(task)
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 2, 2)
    assert [error.exception_class for error in result.errors] == [TaskLost]


@pytest.mark.slow
def test_a_task_whose_worker_is_killed_ends_with_it_and_another_worker_runs_it_once_more(tmp_path: Path) -> None:
    result = sleep_in_the_first_attempt.using(backend="retried").enqueue(str(tmp_path / "pid"))
    with worker(log=tmp_path / "log", lease_seconds=2.0, **VARIABLES) as process:
        task = pid_in(tmp_path / "pid")
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: has_ended(task))
    # Its own must not expire on a busy machine: it would end its task.
    with worker(log=tmp_path / "log", lease_seconds=10.0, **VARIABLES) as process:
        eventually(lambda: refreshed(result).is_finished)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 2, 2)
    assert examine().problems == []

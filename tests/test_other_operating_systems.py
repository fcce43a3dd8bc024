"""Where local processes cannot be run, it is said in a sentence; all else works. The system is pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from container_manager.conf import AppSettings
from container_manager.executors.process import process_executor
from container_manager.executors.registry import build_executors

ROOT = Path(__file__).resolve().parent.parent
# macOS has none of the two modules' functions that are used; Windows has not even the modules.
_ELSEWHERE = """
import runpy, sys, sysconfig
sysconfig.get_config_vars()
sys.platform = "darwin"
sys.modules.update(fcntl=None, termios=None)
sys.argv = ["container_manager", *sys.argv[1:]]
runpy.run_module("container_manager", run_name="__main__")
"""


def elsewhere(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CM_"))}
    environment["CONTAINER_MANAGER_DATABASE"] = str(folder / "jobs.sqlite3")
    return subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.without_database
def test_a_worker_for_local_processes_does_not_start_elsewhere_than_on_linux_and_says_why(tmp_path: Path) -> None:
    found = elsewhere(tmp_path, "worker", "--drain")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        "CommandError: Executor 'default': Local processes need Linux, which this host does not have. Run the worker on another host, "
        "in a Linux container for example, or use an executor that runs jobs in containers."
    )
    assert "Traceback" not in found.stderr


@pytest.mark.without_database
def test_jobs_can_be_submitted_from_other_systems_than_linux(tmp_path: Path) -> None:
    found = elsewhere(tmp_path, "submit", "--", "true")
    assert (found.returncode, "Traceback" in found.stderr) == (0, False), found.stderr


# From Django 6.1 on checks ask every database.
@pytest.mark.django_db(databases="__all__")
def test_a_kernel_that_does_not_tell_the_children_of_a_process_is_reported_by_check_and_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process_executor, "_CHILDREN", tmp_path / "children")
    [warning] = [message for message in run_checks() if message.id == "container_manager.W003"]
    assert "'default': Local processes need" in warning.msg
    with pytest.raises(ImproperlyConfigured, match="CONFIG_PROC_CHILDREN"):
        build_executors(AppSettings())

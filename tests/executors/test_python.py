"""The Python executor: the conformance suite, and what only applies to tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from container_manager.executors.base import LaunchSpec
from container_manager.executors.python import PythonExecutor
from container_manager.testing.conformance import Conformance, Harness

from ..patience import eventually
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


@pytest.mark.without_database
class TestConformance(Conformance):
    # A task that is not there fails with an error of its own.
    test_a_missing_program_is_said_to_be_missing_and_leaves_nothing = None

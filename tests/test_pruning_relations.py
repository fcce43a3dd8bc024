"""Pruning in a project whose models refer to jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SETTINGS = "tests.relations.settings"


@pytest.mark.slow
@pytest.mark.shows("howto/queue.md#prune-old-jobs")
def test_pruning_obeys_on_delete_of_the_projects_models() -> None:
    """In a process of its own: here, where no model refers to jobs, the fast way is tested."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    scenarios = "tests/relations/scenarios.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--create-db", "--ds", _SETTINGS, scenarios],
        cwd=ROOT,
        env=environment | {"DJANGO_SETTINGS_MODULE": _SETTINGS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

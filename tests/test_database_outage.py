"""Jobs that end during a database outage are stored after it; `tests.chaos.outage` runs one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.db import connection

_DATABASES = {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mariadb"}


@pytest.mark.parametrize(
    ("jobs", "seconds", "lease"),
    [
        # Every lease has expired when the database is back, but all workers live: none may rescue another's attempts.
        (20, 12.0, 10.0),
        pytest.param(200, 20.0, 30.0, marks=pytest.mark.slow),
    ],
    ids=["longer than a lease", "long"],
)
@pytest.mark.shows("explanation/worker.md#the-database-is-away")
def test_jobs_that_end_during_a_database_outage_are_stored_after_it(jobs: int, seconds: float, lease: float) -> None:
    """The database is one of this test's own: other tests need theirs."""
    command = [sys.executable, "-m", "tests.chaos.outage", _DATABASES[connection.vendor]]
    command += ["--jobs", str(jobs), "--seconds", str(seconds), "--lease", str(lease)]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{jobs} jobs ended within" in found.stdout

"""`container_manager.models` has all tables and the values that describe a job; what is pickled of them comes back."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db.models import TextChoices

from container_manager import models
from container_manager.jobs import statuses
from container_manager.models import ContainerJob, FailureReason, JobNotCompleted, JobStatus, UniqueUntil

pytestmark = pytest.mark.without_database

ROOT = Path(__file__).resolve().parent.parent
TABLES = list(apps.get_app_config("container_manager").get_models())


def thawed(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # our own bytes


def test_every_table_is_a_public_name_of_models() -> None:
    assert {table.__name__ for table in TABLES} - set(models.__all__) == set()


def test_every_value_that_describes_a_job_is_a_public_name_of_models() -> None:
    public = {name: value for name, value in vars(statuses).items() if name in models.__all__}
    assert set(public) == {
        *("FINISHED_STATUSES", "JOB_TRANSITIONS", "UNFINISHED_STATUSES"),
        *("FailureReason", "JobStatus", "UniqueUntil"),
    }
    assert all(getattr(models, name) is value for name, value in public.items())


@pytest.mark.parametrize("choices", [JobStatus, FailureReason, UniqueUntil])
def test_a_status_and_a_reason_survive_pickling(choices: type[TextChoices]) -> None:
    assert all(thawed(member) is member for member in choices)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_an_instance_of_each_table_survives_pickling(table: type[Any]) -> None:
    copied = thawed(table(pk=table().pk or 1))
    assert type(copied) is table


def test_the_error_of_a_job_that_did_not_complete_survives_pickling() -> None:
    job = ContainerJob(status=JobStatus.FAILED, failure_reason=FailureReason.OOM, last_error="too much")
    copied = thawed(JobNotCompleted(job))
    assert (str(copied), copied.job) == (f"Job {job.pk} is failed (oom): too much", job)


def test_the_statuses_can_be_imported_before_there_are_settings_and_tables() -> None:
    program = (
        "import sys, container_manager.jobs.statuses; from django.conf import settings; "
        "assert not settings.configured and 'container_manager.models' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

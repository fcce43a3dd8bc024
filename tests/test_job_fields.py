"""A job's fields are listed once, in `JobSpec`: whoever adds one there and to the model finds it everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
from django.db.models import Field

from container_manager.cli.job_arguments import add_job_arguments
from container_manager.jobs.spec import JSON_FIELDS, OPTIONS, JobSpec
from container_manager.models import ContainerJob

pytestmark = pytest.mark.without_database

ROOT = Path(__file__).resolve().parent.parent
_MODEL_LINE = '    labels = models.JSONField(_("labels"), default=dict, blank=True)\n'
_LIST_LINE = "    labels: Annotated["

_SETTINGS = """
from example.settings import *

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "jobs.sqlite3"}}
"""

_PROGRAM = """
import json, django
django.setup()
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import RequestFactory
from container_manager import queue, store
from container_manager.conf import app_settings
from container_manager.models import ContainerJob
from container_manager.worker.launch_spec import launch_key, launch_spec

job = ContainerJob.objects.get(name="new")
(claimed,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
launch = launch_spec(claimed, app_settings(), key=launch_key(claimed, app_settings()), is_wanted=lambda: True)
page = admin.site._registry[ContainerJob]
request = RequestFactory().get("/")
request.user = User(is_superuser=True)
offered, kept = page.get_fields(request), page.get_readonly_fields(request, ContainerJob.objects.get(pk=job.pk))
store.finish([store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)], worker="w", using="default")
again = queue.retry(ContainerJob.objects.get(pk=job.pk))
print(json.dumps({
    "stored": job.swap_bytes, "claimed": claimed.spec.swap_bytes, "launched": launch.job.swap_bytes,
    "repeated": again.swap_bytes, "origin": again.origin == job.pk,
    "admin offers": "swap_bytes" in offered, "admin keeps": "swap_bytes" in kept,
}))
"""


@pytest.mark.slow
def test_a_field_added_to_the_list_and_the_model_arrives_everywhere(tmp_path: Path) -> None:
    package = tmp_path / "container_manager"
    shutil.copytree(ROOT / "container_manager", package, ignore=shutil.ignore_patterns("__pycache__"))
    insert_before(
        package / "models/container_job.py",
        _MODEL_LINE,
        '    swap_bytes = models.PositiveBigIntegerField("swap", null=True, blank=True)\n',
    )
    insert_before(
        package / "jobs/spec.py",
        _LIST_LINE,
        '    swap_bytes: Annotated[int | None, Option("--swap", "BYTES", kind="size")] = None\n',
    )
    (tmp_path / "settings.py").write_text(_SETTINGS, encoding="utf-8")

    def python(*arguments: str) -> str:
        path = os.pathsep.join(map(str, (tmp_path, ROOT)))
        environment = {**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "settings"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Add field swap_bytes to containerjob" in python("-m", "django", "makemigrations", "container_manager")
    python("-m", "django", "migrate", "--verbosity", "0")
    python("-m", "django", "container", "submit", "--name", "new", "--swap", "64k", "--", "true")
    assert json.loads(python("-c", _PROGRAM)) == {
        "stored": 65536,
        "claimed": 65536,
        "launched": 65536,
        "repeated": 65536,
        "origin": True,
        "admin offers": True,
        "admin keeps": True,
    }


def insert_before(path: Path, line: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(line) == 1
    path.write_text(text.replace(line, new + line), encoding="utf-8")


def model_field(name: str) -> Field[object, object]:
    field = ContainerJob._meta.get_field(name)
    assert isinstance(field, Field)
    return field


def test_every_field_that_people_fill_in_is_in_the_list() -> None:
    filled_in = {f.name for f in ContainerJob._meta.concrete_fields if f.editable}
    # When to run it, and who asked, are not about what is run; the status is the state machine's.
    assert filled_in - {"scheduled_for", "created_by", "status"} == set(JobSpec._fields)


@pytest.mark.parametrize("name", JobSpec._fields)
def test_a_field_has_the_default_of_its_model_field(name: str) -> None:
    assert JobSpec._field_defaults[name] == model_field(name).get_default()


def test_the_fields_of_mappings_are_the_json_columns() -> None:
    assert set(JSON_FIELDS) == {n for n in JobSpec._fields if model_field(n).get_internal_type() == "JSONField"}


def test_the_command_line_offers_every_field() -> None:
    parser = ArgumentParser()
    add_job_arguments(parser)
    offered = {action.dest for action in parser._actions}
    assert set(OPTIONS) | {"command"} == set(JobSpec._fields) - {"container", "task", "task_arguments"}
    assert set(OPTIONS) | {"command"} < offered

"""A job's fields are listed once, in `JobSpec`: whoever adds one there and to the model finds it everywhere."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Field
from django.test import Client, RequestFactory
from django.urls import reverse

from container_manager import store
from container_manager.cli.job_arguments import add_job_arguments
from container_manager.dashboard.access import Act
from container_manager.dashboard.api.schemas import COMPONENTS, LISTED
from container_manager.dashboard.search import LIST_FIELDS
from container_manager.jobs.spec import (
    CODE_FIELDS,
    ENQUEUEING_FIELDS,
    JSON_FIELDS,
    PRIVATE_FIELDS,
    TEXT_MAPPINGS,
    JobSpec,
)
from container_manager.models import ContainerJob
from container_manager.tasks import ContainerTask
from container_manager.tasks.compat import Task
from container_manager.tasks.container_task import TASK_OPTIONS, task_fields

from .dashboard_users import user_who_may
from .jobs import job_in
from .task_functions import add
from .typed_commands import typed

pytestmark = pytest.mark.without_database

ROOT = Path(__file__).resolve().parent.parent
_ALL = frozenset(JobSpec._fields)

# What does not reach a place, and why. Whatever is not named here reaches all places.
_FOR_CODE = dict.fromkeys(("task", "task_arguments"), "which function is run is for the project's code to say")
_FOR_ENQUEUEING = dict.fromkeys(
    ("unique_key", "unique_until", "unique_seconds"), "it is about enqueueing alone: workers do not read it"
)
EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "claim": _FOR_ENQUEUEING,
    "retry": {},
    "command line": {**_FOR_CODE, "container": "an option for each request instead"},
    "container show": {},
    "admin's form": _FOR_CODE,
    "admin's page": {},
    "API's Job": {},
    "API's NewJob": _FOR_CODE,
    "dashboard's table": {
        "name": "it is the page's heading",
        "labels": "they are under the heading",
        "secrets": "a row for each, with its name alone",
        "secret_files": "a row for each, with its name alone",
    },
    "@task": {
        "name": "a task has one: its path",
        "queue": "it is the framework's queue_name",
        "priority": "it is the framework's, on another scale",
        "task": "it is the task",
        "task_arguments": "they are those of the call",
        **dict.fromkeys(_FOR_ENQUEUEING, "the option 'unique' makes them, of the task and its arguments"),
    },
}

# A value of each field that is not its default.
_VALUES: Mapping[str, Any] = {
    "name": "nightly",
    "image": "app:1",
    "command": "report --all",
    "environment": {"LEVEL": "swordfish-1"},
    "secrets": {"TOKEN": "file:swordfish-2"},
    "secret_files": {"key.pem": "file:swordfish-3"},
    "working_directory": "/srv",
    "container": {"read_only": True},
    "memory_bytes": 65536,
    "cpu_count": 1.5,
    "timeout_seconds": 61,
    "grace_seconds": 11,
    "executor": "elsewhere",
    "queue": "reports",
    "priority": 51,
    "max_retries": 4,
    "backoff_seconds": 7,
    "labels": {"team": "blue"},
    "task": "shop.tasks.report",
    "task_arguments": {"args": [1], "kwargs": {}},
    "unique_key": "report-1",
    "unique_until": "started",
    "unique_seconds": 62,
}


@pytest.fixture
def full_job(db: None) -> ContainerJob:
    """Return a queued job each of whose fields has another value than its default."""
    job = job_in("queued")
    # As a row that was written by SQL: the settings of the tests allow no secrets.
    ContainerJob.objects.filter(pk=job.pk).update(**_VALUES)
    return ContainerJob.objects.get(pk=job.pk)


def model_field(name: str) -> Field[object, object]:
    field = ContainerJob._meta.get_field(name)
    assert isinstance(field, Field)
    return field


def root() -> User:
    return User.objects.create_superuser("root")


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def of_a_claim(job: ContainerJob) -> set[str]:
    [claimed] = store.claim(worker="w", executors=[job.executor], limit=1, using="default")
    return {name for name, value in claimed.spec._asdict().items() if value == _VALUES[name]}


def of_the_command_line(job: ContainerJob) -> set[str]:
    parser = ArgumentParser()
    add_job_arguments(parser)
    return {action.dest for action in parser._actions}


def of_show(job: ContainerJob) -> set[str]:
    shown = json.loads(typed("show", str(job.pk), "--json").stdout)["job"]
    as_text = {line.split()[0] for line in typed("show", str(job.pk)).stdout.splitlines() if line}
    return {name for name, value in _VALUES.items() if shown.get(name) == value} & as_text


def of_the_admins_form(job: ContainerJob) -> set[str]:
    request = RequestFactory().get("/")
    request.user = root()
    return set(admin.site.get_model_admin(ContainerJob).get_form(request).base_fields)


def of_the_admins_page(job: ContainerJob) -> set[str]:
    request = RequestFactory().get("/")
    request.user = root()
    return set(admin.site.get_model_admin(ContainerJob).get_readonly_fields(request, job))


def of_the_api(job: ContainerJob) -> set[str]:
    answer = client_of(root()).get(f"/jobs/api/v1/jobs/{job.pk}").json()
    assert set(COMPONENTS["Job"]["properties"]) == set(answer)
    return {name for name, value in _VALUES.items() if answer.get(name) == value}


def of_the_dashboard(job: ContainerJob) -> set[str]:
    page = client_of(root()).get(reverse("container_manager_dashboard:job", args=[job.pk])).content.decode()
    return set(re.findall(r'<th scope="row">([^<]+)</th>', page))


def of_tasks(job: ContainerJob) -> set[str]:
    asked = {name: object() for name in TASK_OPTIONS if name != "unique"}
    made = task_fields(add, asked)
    own = {option: getattr(add, option) for option in asked}
    assert own == dict.fromkeys(asked)
    return {name for name, value in made.items() if value in asked.values()}


REACHED: Mapping[str, Callable[[ContainerJob], set[str]]] = {
    "claim": of_a_claim,
    "retry": lambda job: {name for name, value in job.spec._asdict().items() if value == _VALUES[name]},
    "command line": of_the_command_line,
    "container show": of_show,
    "admin's form": of_the_admins_form,
    "admin's page": of_the_admins_page,
    "API's Job": of_the_api,
    "API's NewJob": lambda job: set(COMPONENTS["NewJob"]["properties"]),
    "dashboard's table": of_the_dashboard,
    "@task": of_tasks,
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("place", EXCEPTIONS)
def test_every_field_reaches_every_place_but_for_the_exceptions_that_have_a_reason(
    place: str, full_job: ContainerJob
) -> None:
    assert REACHED[place](full_job) & _ALL == _ALL - set(EXCEPTIONS[place])


def test_each_field_has_a_value_here_that_is_not_its_default() -> None:
    assert set(EXCEPTIONS) == set(REACHED)
    assert set(_VALUES) == _ALL
    assert [name for name, value in _VALUES.items() if value == JobSpec._field_defaults[name]] == []


def test_the_options_of_a_task_are_declared_for_type_checkers() -> None:
    tree = ast.parse((ROOT / "container_manager/tasks/container_task.py").read_text(encoding="utf-8"))
    [declared] = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "_AskingTask"]
    names = [n.target.id for n in declared.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    assert {*names, "unique"} == set(TASK_OPTIONS)
    assert len(names) == len(set(names))


def test_every_field_that_people_fill_in_is_in_the_list() -> None:
    filled_in = {f.name for f in ContainerJob._meta.concrete_fields if f.editable}
    # When to run it, and who asked, are not about what is run; the status is the state machine's.
    assert filled_in - {"scheduled_for", "created_by", "status"} == set(JobSpec._fields)


@pytest.mark.parametrize("name", JobSpec._fields)
def test_a_field_has_the_default_of_its_model_field(name: str) -> None:
    assert JobSpec._field_defaults[name] == model_field(name).get_default()


def test_the_fields_of_mappings_are_the_json_columns() -> None:
    assert set(JSON_FIELDS) == {n for n in JobSpec._fields if model_field(n).get_internal_type() == "JSONField"}


def test_what_the_list_says_of_its_fields() -> None:
    assert set(CODE_FIELDS) == set(_FOR_CODE)
    assert set(ENQUEUEING_FIELDS) == set(_FOR_ENQUEUEING)
    # Their names are shown to who may not see their values, so they have names. Labels alone are for everybody.
    assert set(PRIVATE_FIELDS) == set(TEXT_MAPPINGS) - {"labels"}


def test_the_options_of_tasks_take_no_name_that_the_framework_has() -> None:
    assert {f.name for f in fields(ContainerTask)} - {f.name for f in fields(Task)} == set(TASK_OPTIONS)
    assert {f.name for f in fields(Task)} & set(TASK_OPTIONS) == set()


def test_the_tutorial_names_every_option_of_tasks() -> None:
    page = (ROOT / "docs/tutorial/tasks.md").read_text(encoding="utf-8")
    sentence = page.partition("are what its tasks get:")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == set(TASK_OPTIONS)


def test_a_list_of_the_api_reads_no_column_that_was_not_fetched_for_it() -> None:
    assert set(LIST_FIELDS) - set(LISTED) == {"status_version"}
    assert set(LISTED) <= set(LIST_FIELDS)
    assert set(PRIVATE_FIELDS) & set(LIST_FIELDS) == set()


@pytest.mark.django_db
def test_no_private_value_is_shown_to_who_may_not_see_environments(full_job: ContainerJob) -> None:
    guest = user_who_may(*(act for act in Act if act != Act.SEE_ENVIRONMENT))
    guest.is_staff = True
    guest.save()
    for path in (
        reverse("container_manager_dashboard:job", args=[full_job.pk]),
        reverse("admin:container_manager_containerjob_change", args=[full_job.pk]),
        f"/jobs/api/v1/jobs/{full_job.pk}",
        "/jobs/api/v1/jobs",
    ):
        answer = client_of(guest).get(path)
        assert answer.status_code == 200
        assert "swordfish" not in answer.content.decode()


_MODEL_LINE = '    labels = models.JSONField(_("labels"), default=dict, blank=True)\n'
_FIRST_LINE = "    labels: Annotated["
_AFTER_LAST_LINE = "\n\n_TYPES = get_type_hints(JobSpec)"
_NEW_COLUMNS = """
    swap_bytes = models.PositiveBigIntegerField("swap", null=True, blank=True)
    tokens = models.JSONField("tokens", default=dict, blank=True)
"""
_NEW_PRIVATE_FIELD = """
    tokens: Annotated[
        Mapping[str, str], Option("--token", "NAME=VALUE", kind="texts"), FieldMark.PRIVATE
    ] = {}
"""
_NEW_LAST_FIELD = '    swap_bytes: Annotated[int | None, Option("--swap", "BYTES", kind="size")] = None\n'

_SETTINGS = """
from example.settings import *

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "jobs.sqlite3"}}
"""

_PROGRAM = """
import json, django
django.setup()
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client, RequestFactory
from container_manager import queue, store
from container_manager.conf import app_settings
from container_manager.models import ContainerJob
from container_manager.tasks.compat import task_backends
from container_manager.worker.launch_spec import launch_key, launch_spec
from example.tasks import sum_sales

def asked(job):
    return [job.swap_bytes, job.tokens]

def client_of(user):
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    return client

def seen_by(user):
    client = client_of(user)
    pages = f"/jobs/jobs/{job.pk}/", f"/admin/container_manager/containerjob/{job.pk}/change/"
    found = client.get(f"/jobs/api/v1/jobs/{job.pk}").json()
    texts = [client.get(page).content.decode() for page in pages]
    return {
        "API": [found["swap_bytes"], found["tokens"]],
        "pages name": [[word in text for word in ("65536", "KEY")] for text in texts],
        "pages tell": ["swordfish" in text for text in texts],
    }

job = ContainerJob.objects.get(name="new")
(claimed,) = store.claim(worker="w", executors=["default"], limit=1, using="default")
launch = launch_spec(claimed, app_settings(), key=launch_key(claimed, app_settings()), is_wanted=lambda: True)
page = admin.site._registry[ContainerJob]
request = RequestFactory().get("/")
root = request.user = User.objects.create_superuser("root")
offered, kept = page.get_fields(request), page.get_readonly_fields(request, ContainerJob.objects.get(pk=job.pk))
store.finish([store.Outcome(job_id=job.pk, attempt=1, status="completed", exit_code=0)], worker="w", using="default")
again = queue.retry(ContainerJob.objects.get(pk=job.pk))
guest = User.objects.create_user("guest", is_staff=True)
guest.user_permissions.add(Permission.objects.get(codename="view_containerjob"))
body = {"command": "true", "swap_bytes": 1, "tokens": {"A": "b"}}
new = client_of(root).post("/jobs/api/v1/jobs", json.dumps(body), content_type="application/json")
task = sum_sales.using(swap="64k", tokens={"KEY": "swordfish"}).enqueue([])
print(json.dumps({
    "stored": asked(job), "claimed": asked(claimed.spec), "launched": asked(launch.job), "repeated": asked(again),
    "origin": again.origin == job.pk, "key": claimed.spec.unique_key,
    "admin offers": {"swap_bytes", "tokens"} <= {*offered}, "admin keeps": {"swap_bytes", "tokens"} <= {*kept},
    "API takes": [new.status_code, asked(ContainerJob.objects.get(pk=new.json()["id"]))],
    "task": asked(task_backends["default"].get_job(task.id)),
    "root": seen_by(root), "guest": seen_by(guest),
}))
"""


@pytest.mark.slow
def test_a_field_added_to_the_list_and_the_model_arrives_everywhere(tmp_path: Path) -> None:
    """One at the end of the list, and a private one in the middle of it."""
    package = tmp_path / "container_manager"
    shutil.copytree(ROOT / "container_manager", package, ignore=shutil.ignore_patterns("__pycache__"))
    [model] = [path for path in package.rglob("*.py") if _MODEL_LINE in path.read_text(encoding="utf-8")]
    insert_before(model, _MODEL_LINE, _NEW_COLUMNS.lstrip("\n"))
    insert_before(package / "jobs/spec.py", _FIRST_LINE, _NEW_PRIVATE_FIELD.lstrip("\n"))
    insert_before(package / "jobs/spec.py", _AFTER_LAST_LINE, _NEW_LAST_FIELD)
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
    asked = ("--swap", "64k", "--token", "KEY=swordfish", "--unique-key", "one", "--unique-until", "started")
    python("-m", "django", "container", "submit", "--name", "new", *asked, "--", "true")
    given = [65536, {"KEY": "swordfish"}]
    shown = json.loads(python("-m", "django", "container", "show", "new", "--json"))["job"]
    assert [shown["swap_bytes"], shown["tokens"]] == given
    names_alone = {"pages name": [[True, True], [True, False]], "pages tell": [False, False]}
    assert json.loads(python("-c", _PROGRAM)) == {
        "stored": given,
        "claimed": given,
        "launched": given,
        "repeated": given,
        "origin": True,
        "key": "",
        "admin offers": True,
        "admin keeps": True,
        "API takes": [201, [1, {"A": "b"}]],
        "task": given,
        "root": {"API": given, "pages name": [[True, True], [True, True]], "pages tell": [False, True]},
        "guest": {"API": [65536, {"KEY": None}], **names_alone},
    }


def insert_before(path: Path, line: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(line) == 1
    path.write_text(text.replace(line, new + line), encoding="utf-8")

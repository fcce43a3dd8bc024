"""The path of a job in ``docs/explanation/architecture.md`` names functions that exist and that a job calls."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import threading
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_permission_codename

from container_manager import queue
from container_manager.conf import AppSettings, RetrySettings
from container_manager.executors.base import Executor
from container_manager.executors.process import ProcessExecutor
from container_manager.worker import WorkerLoop, WorkerOptions

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    ROOT.glob("docs/[!_]*/*.md")
)
PAGE = ROOT / "docs/explanation/architecture.md"
SETTINGS = AppSettings(poll_seconds=0.1, retry=RetrySettings(initial_seconds=0.05, jitter=0.0))
# Ids of checks and the standalone database's file look like names of modules.
DOTTED_NAME = re.compile(r"`(container_manager(?:\.(?![EW]\d{3}|sqlite3)\w+)+)(?:\([^`]*\))?`")


def resolve(dotted: str) -> Any:
    """Return the module, class, method or function of a dotted name."""
    path = dotted.split(".")
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for attribute in path[length:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(dotted)


def code_of(dotted: str) -> CodeType | None:
    """Return the code that a job runs: an executor's method is that of local processes; None for a class."""
    found = resolve(dotted)
    owner, _, name = dotted.rpartition(".")
    if resolve(owner) is Executor:
        found = getattr(ProcessExecutor, name)
    return inspect.unwrap(found).__code__ if inspect.isfunction(found) else None


def steps() -> dict[str, list[str]]:
    """Return the names of each numbered step of the walk, by the step's first words."""
    section = PAGE.read_text(encoding="utf-8").split("## The path of a job\n")[1].split("\n### ")[0]
    items = re.findall(r"^\d+\. \*\*(.+?)\*\*(.*?)(?=^\d+\. |\n\n|\Z)", section, re.M | re.S)
    return {title.strip("."): DOTTED_NAME.findall(text) for title, text in items}


def permissions() -> set[str]:
    """Return the names of the app's permissions, which look like names of modules."""
    every = [model._meta for model in apps.get_app_config("container_manager").get_models()]
    codenames = [get_permission_codename(action, meta) for meta in every for action in meta.default_permissions]
    codenames += [codename for meta in every for codename, _ in meta.permissions]
    return {f"container_manager.{codename}" for codename in codenames}


@pytest.mark.without_database
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_dotted_name_in_the_docs_can_be_imported_or_is_a_permission(page: Path) -> None:
    gone = []
    for name in sorted({*DOTTED_NAME.findall(page.read_text(encoding="utf-8"))} - permissions()):
        try:
            resolve(name)
        except (ImportError, AttributeError):
            gone.append(name)
    assert gone == []


@pytest.mark.without_database
def test_the_path_of_a_job_in_the_architecture_page_goes_from_enqueue_to_retry() -> None:
    titles = list(steps())
    assert (titles[0], titles[-1]) == ("Enqueue", "Retry")
    assert all(steps().values())


@pytest.mark.django_db(transaction=True)
def test_a_job_that_is_retried_calls_every_function_in_the_architecture_page(tmp_path: Path) -> None:
    called: set[CodeType] = set()

    def record(frame: Any, event: str, argument: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        job = queue.enqueue(command=f"sh -c 'echo out; mkdir {tmp_path}/first && exit 3; exit 0'")
        while job.status not in ("completed", "failed"):
            executors = {"default": ProcessExecutor()}
            WorkerLoop(settings=SETTINGS, executors=executors, options=WorkerOptions(drain=True)).run()
            job.refresh_from_db()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert (job.status, job.attempt) == ("completed", 2)
    codes = {name: code for names in steps().values() for name in names if (code := code_of(name)) is not None}
    assert [name for name, code in codes.items() if code not in called] == []
    assert len(codes) >= len(steps())

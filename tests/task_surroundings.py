"""What a task of these tests needs in a container or pod: this host's interpreter and project, and its database."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from django.db import connection

from container_manager.models import ContainerJob

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = f"{sys.executable} -m django container run-task"
# What a Python of this host needs, each at its own path.
_FOLDERS = ("/usr", "/lib", "/lib64", sys.base_prefix, sys.prefix, str(PROJECT))


def folder_of_database() -> str:
    """Return the folder of the test database's file or of its server's socket."""
    settings = connection.settings_dict
    named = (str(name) for name in (settings["HOST"], settings["OPTIONS"].get("unix_socket", ""), settings["NAME"]))
    path = next(Path(name) for name in named if name.startswith("/"))
    return str(path if path.is_dir() else path.parent)


def open_database() -> None:
    """Let a task that is not this user reach the test database, for as long as its folder is there.

    Tests in other processes need it too, so it is not closed again.
    """
    folder, name = Path(folder_of_database()), Path(connection.settings_dict["NAME"]).name
    if connection.vendor != "sqlite":
        # The socket in it is everybody's. What else a server has there stays its own.
        folder.chmod(folder.stat().st_mode | 0o055)
        return
    folder.chmod(folder.stat().st_mode | 0o077)
    for file in folder.glob(f"{name}*"):
        file.chmod(file.stat().st_mode | 0o066)


def folders() -> dict[str, str]:
    """Return the folders of this host that a task needs, each by a name, at the same path."""
    return {f"host{number}": path for number, path in enumerate(dict.fromkeys([*_FOLDERS, folder_of_database()]))}


def variables(settings: str, *, lease_seconds: float) -> dict[str, str]:
    """Return the variables of a task's process; ``settings`` are those of its worker."""
    passed = {name: value for name, value in os.environ.items() if name.startswith("CM_")}
    return {
        **passed,
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "CM_WORKER_DATABASE": str(connection.settings_dict["NAME"]),
        "CM_WORKER_LEASE_SECONDS": str(lease_seconds),
        "CM_WORKER_SETTINGS": settings,
    }


def finished(result: Any) -> bool:
    result.refresh()
    return bool(result.is_finished)


def job_of(result: Any) -> ContainerJob:
    return ContainerJob.objects.get(pk=result.id)

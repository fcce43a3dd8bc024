"""Settings of the tests. CM_TEST_DATABASE chooses the database: sqlite (default), postgresql or mariadb."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# Most processes that tests start do little but import what is never freed: a tenth of that time went into the search
# for garbage among it.
gc.set_threshold(50_000, 20, 20)

SECRET_KEY = "only for tests"
USE_TZ = True
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "container_manager",
    "container_manager.dashboard",
    "tests.machines",
    "tests.initial_states",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _tasks(**options: Any) -> dict[str, Any]:
    return {"BACKEND": "container_manager.tasks.ContainerTaskBackend", "QUEUES": [], "OPTIONS": options}


TASKS = {
    "default": _tasks(retries=0),
    "retried": _tasks(retries=2),
    # A task that has not begun by then, or is killed before it has ended, shows nothing.
    "hurried": _tasks(retries=0, timeout=5, grace=60),
    "small": _tasks(retries=0, memory="512m"),
    "processes": _tasks(retries=0, executor="process", command=f"{sys.executable} -m django container run-task"),
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_VENDOR = os.environ.get("CM_TEST_DATABASE", "sqlite")
_SOCKET = os.environ.get("CM_TEST_SOCKET", "")


def _sqlite_folder() -> Path:
    """Return a folder of this run's own, which its child processes share."""
    if "CM_TEST_FOLDER" not in os.environ:
        os.environ["CM_TEST_FOLDER"] = tempfile.mkdtemp(prefix="cm-sqlite-")
        atexit.register(shutil.rmtree, os.environ["CM_TEST_FOLDER"], ignore_errors=True)
    return Path(os.environ["CM_TEST_FOLDER"])


def _database(name: str) -> dict[str, Any]:
    if _VENDOR == "postgresql":
        return {"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": "postgres", "HOST": _SOCKET}
    if _VENDOR == "mariadb":
        options = {"unix_socket": _SOCKET, "charset": "utf8mb4"}
        test = {"CHARSET": "utf8mb4"}
        return {"ENGINE": "django.db.backends.mysql", "NAME": name, "USER": "root", "OPTIONS": options, "TEST": test}
    folder = _sqlite_folder()
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": folder / f"{name}.sqlite3",
        "TEST": {"NAME": folder / f"test_{name}.sqlite3"},
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": "PRAGMA journal_mode=WAL"},
    }


DATABASES = {"default": _database("container_manager"), "other": _database("container_manager_other")}

"""Settings of the worker processes that tests start: the tests' own database, a short lease, quick retries."""

import json
import os
import sys
from typing import Any

from .settings import *  # noqa: F403
from .settings import DATABASES

# A worker needs no app for users or pages, and to import those takes a fifth of its start. One whose project has the admin
# is started by the tests of commands in a project of their own.
INSTALLED_APPS = ["container_manager", *json.loads(os.environ.get("CM_WORKER_APPS", "[]"))]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = ""
TEMPLATES: list[dict[str, Any]] = []
# The other one does not exist outside a test run, and from Django 6.1 system checks ask every database.
if os.environ.get("CM_WORKER_PSYCOPG2"):
    # Where both are installed, Django takes the newer one.
    sys.modules["psycopg"] = None  # type: ignore[assignment]
DATABASES = {
    "default": {
        **DATABASES["default"],
        "NAME": os.environ["CM_WORKER_DATABASE"],
        **json.loads(os.environ.get("CM_WORKER_CONNECTION", "{}")),
    }
}
CONTAINER_MANAGER = {
    **json.loads(os.environ.get("CM_WORKER_SETTINGS", "{}")),
    "LEASE_SECONDS": float(os.environ["CM_WORKER_LEASE_SECONDS"]),
    # Many tests freeze a worker until its lease has expired, and wait for others to take its jobs.
    "OUTAGE_SECONDS": float(os.environ.get("CM_WORKER_OUTAGE_SECONDS", os.environ["CM_WORKER_LEASE_SECONDS"])),
    "POLL_SECONDS": 0.1,
    "RETRY": json.loads(os.environ.get("CM_WORKER_RETRY", '{"INITIAL_SECONDS": 0.1, "MAX_SECONDS": 0.1}')),
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}

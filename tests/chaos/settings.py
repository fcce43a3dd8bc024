"""Settings of the chaos test's workers: quick retries. CHAOS_DATABASE and CHAOS_EXECUTORS are JSON."""

import json
import logging
import os
import time

from . import worker_disturbances

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["container_manager", "tests.chaos"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": json.loads(os.environ["CHAOS_DATABASE"])}
CONTAINER_MANAGER = {
    "INSTALL": "chaos",
    "LEASE_SECONDS": float(os.environ["CHAOS_LEASE_SECONDS"]),
    "OUTAGE_SECONDS": float(os.environ.get("CHAOS_OUTAGE_SECONDS", os.environ["CHAOS_LEASE_SECONDS"])),
    "POLL_SECONDS": 0.2,
    "RETRY": {"INITIAL_SECONDS": 0.1, "MAX_SECONDS": 1.0},
}
if executors := json.loads(os.environ.get("CHAOS_EXECUTORS", "{}")):
    CONTAINER_MANAGER["EXECUTORS"] = executors
if worker_disturbances.CONTROL is not None:
    worker_disturbances.disturb(os.environ["CHAOS_HOST"])


class _ClockThatDoesNotJump(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return True


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"boottime": {"()": _ClockThatDoesNotJump}},
    "formatters": {"line": {"format": "%(boottime).2f %(process)d %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["boottime"]}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}

"""Django's settings in the turn of BENCH_CONTENDER: its app alone. BENCH_SOCKET is the folder of the server's socket."""

import os

from .contenders import contender

_taking_part = contender(os.environ["BENCH_CONTENDER"])

SECRET_KEY = "only for benchmarks"
USE_TZ = True
INSTALLED_APPS = [*_taking_part.apps]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "bench",
        "USER": "postgres",
        "HOST": os.environ["BENCH_SOCKET"],
        # For all alike: a connection is kept.
        "CONN_MAX_AGE": None,
    }
}
if _taking_part.backend:
    TASKS = {"default": {"BACKEND": _taking_part.backend, "QUEUES": [], "OPTIONS": {}}}
CONTAINER_MANAGER = {
    "EXECUTORS": {
        "default": {
            "BACKEND": "container_manager.executors.python.PythonExecutor",
            "OPTIONS": {"preload": ["benchmarks.tasks.functions"]},
        }
    },
}
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}

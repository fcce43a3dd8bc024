"""Django's settings for the contenders that need them. BENCH_SOCKET is the folder of the server's socket."""

import os
from importlib.util import find_spec

SECRET_KEY = "only for benchmarks"
USE_TZ = True
INSTALLED_APPS = ["container_manager"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "bench",
        "USER": "postgres",
        "HOST": os.environ.get("BENCH_SOCKET", ""),
        "OPTIONS": {"server_side_binding": True, "prepare_threshold": 1},
        # As the peers' drivers do by themselves, for all contenders that use Django.
        "CONN_MAX_AGE": None,
    }
}
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}
if find_spec("django_tasks_db"):
    INSTALLED_APPS += ["django_tasks", "django_tasks_db"]
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

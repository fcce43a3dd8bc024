"""Settings of the measurement. BENCH_DATABASE holds the database, as JSON."""

import json
import os

SECRET_KEY = "only for benchmarks"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": json.loads(os.environ["BENCH_DATABASE"])}
INSTALLED_APPS = ["django.contrib.contenttypes", "container_manager", "benchmarks.transitions.peers"]
if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    INSTALLED_APPS.append("pgtrigger")

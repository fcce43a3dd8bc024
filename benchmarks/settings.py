"""Settings of the benchmarks. CM_TEST_DATABASE and CM_TEST_SOCKET choose the database, as in the tests' settings."""

import os
from pathlib import Path

SECRET_KEY = "only for benchmarks"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "container_manager", "benchmarks.peers"]

if os.environ.get("CM_TEST_DATABASE", "sqlite") == "postgresql":
    INSTALLED_APPS += ["pgtrigger"]
    # The server is this run's own: the database that it comes with will do.
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": os.environ["CM_TEST_SOCKET"],
        }
    }
else:
    # With synchronous=FULL the disk would be most of every figure, and flatter the slow ones.
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(os.environ["CM_TEST_FOLDER"]) / "benchmarks.sqlite3",
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 30,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            },
        }
    }

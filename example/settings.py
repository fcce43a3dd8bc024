"""A Django project with the app in it: the dashboard and the admin.

``make serve`` runs it on SQLite and local processes; by variables, compose.yaml runs it on PostgreSQL and Docker, and
deploy/kubernetes on PostgreSQL and a cluster.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from container_manager.conf import sqlite_database
from container_manager.executors.docker_variables import docker_daemon

BASE = Path(__file__).resolve().parent
DEBUG = os.environ.get("EXAMPLE_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("EXAMPLE_SECRET_KEY") or ("for a server on the loopback interface only" if DEBUG else "")
ALLOWED_HOSTS = os.environ.get("EXAMPLE_HOSTS", "127.0.0.1,localhost").split(",")
ROOT_URLCONF = "example.urls"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": sqlite_database(Path(os.environ.get("EXAMPLE_DATABASE_FILE", BASE / "example.sqlite3")))}
if host := os.environ.get("EXAMPLE_DATABASE_HOST"):
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": host,
        "NAME": "jobs",
        "USER": "jobs",
        "PASSWORD": os.environ["EXAMPLE_DATABASE_PASSWORD"],
        "OPTIONS": {"server_side_binding": True, "prepare_threshold": 1},
    }
# The feeder of ``make serve`` enqueues without end.
CONTAINER_MANAGER = {"PRUNE_AFTER_SECONDS": 6 * 3600} if os.environ.get("EXAMPLE_FED") else {}
EXAMPLE_JOB_IMAGE = ""
if os.environ.get("EXAMPLE_EXECUTOR") == "docker":
    EXAMPLE_JOB_IMAGE = "python:3.13-slim"
    CONTAINER_MANAGER = {
        "INSTALL": "example",
        "EXECUTORS": {
            "default": {
                "BACKEND": "container_manager.executors.docker.DockerExecutor",
                "OPTIONS": {**docker_daemon(os.environ), "images": os.environ["EXAMPLE_IMAGES"].split(",")},
            }
        },
    }
elif os.environ.get("EXAMPLE_EXECUTOR") == "kubernetes":
    EXAMPLE_JOB_IMAGE = "python:3.13-slim"
    CONTAINER_MANAGER = {
        "INSTALL": "example",
        "EXECUTORS": {
            "default": {
                "BACKEND": "container_manager.executors.kubernetes.KubernetesExecutor",
                "OPTIONS": {
                    # In a pod the worker's own service account says which cluster.
                    "namespace": os.environ.get("EXAMPLE_NAMESPACE", ""),
                    "images": os.environ["EXAMPLE_IMAGES"].split(","),
                    "networks": ["internet"],
                    "memory_bytes": 512 * 1024**2,
                    "cpu_count": 1,
                    "storage_bytes": 1024**3,
                },
            }
        },
    }
elif find_spec("django.tasks") or find_spec("django_tasks"):
    # Tasks in processes that are forked from one which has imported the project; other jobs as programs.
    CONTAINER_MANAGER["EXECUTORS"] = {
        "default": {"BACKEND": "container_manager.executors.process.ProcessExecutor"},
        "python": {
            "BACKEND": "container_manager.executors.python.PythonExecutor",
            "OPTIONS": {"preload": ["example.tasks"]},
        },
    }
    TASKS = {
        "default": {
            "BACKEND": "container_manager.tasks.ContainerTaskBackend",
            "OPTIONS": {"executor": "python", "timeout": 60, "retries": 2},
        }
    }
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "container_manager",
    "container_manager.dashboard",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    # Without DEBUG nobody else serves the admin's style sheets.
    *(["whitenoise.middleware.WhiteNoiseMiddleware"] if find_spec("whitenoise") else []),
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
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

"""Settings of the web server that the browser tests start: the tests' own database, and what a project has besides."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE

DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
STATIC_URL = "/static/"
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    *MIDDLEWARE,
]
DATABASES = {"default": {**DATABASES["default"], "NAME": os.environ["CM_WORKER_DATABASE"]}}

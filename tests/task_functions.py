"""Tasks for tests, declared as a project declares its own."""

from __future__ import annotations

import os
import sys
from typing import Any

import django

if django.VERSION < (6, 0):
    from django_tasks import task
else:
    from django.tasks import task


@task
def run_script(script: str) -> None:
    """Become a shell that runs a script."""
    sys.stdout.flush()
    os.execvp("sh", ["sh", "-c", script])  # noqa: S606, S607


@task
def add(first: Any, second: Any) -> Any:
    return first + second

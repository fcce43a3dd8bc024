"""What system checks say of a backend for tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.apps import apps
from django.core.checks import CheckMessage, Error


def backend_messages(alias: str, problems: Iterable[tuple[str, str]]) -> Iterator[CheckMessage]:
    """Report a backend whose app is missing, and the problems of its tasks: paths and texts."""
    if not apps.is_installed("container_manager"):
        yield Error(
            f"TASKS[{alias!r}] needs the app 'container_manager' in INSTALLED_APPS.", id="container_manager.E014"
        )
        return
    for path, problem in problems:
        yield Error(f"Task {path}: {problem}", id="container_manager.E015")

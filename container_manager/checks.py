"""System checks of the settings: wrong entries, missing executors, and what is unsafe in production."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from .conf import app_settings, setting_problems
from .executors.registry import check_executor_options, check_host, executor_class


@register()
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report wrong entries, and executors that cannot be imported, have wrong options, or need another host."""
    if problems := setting_problems():
        return [Error(problem, id="container_manager.E010") for problem in problems]
    messages: list[CheckMessage] = []
    if path := app_settings().visible_jobs:
        try:
            import_string(path)
        except ImportError as error:
            messages.append(Error(f"CONTAINER_MANAGER['VISIBLE_JOBS']: {error}", id="container_manager.E013"))
    for alias in app_settings().executors:
        try:
            executor_class(app_settings(), alias)
        except ImproperlyConfigured as error:
            messages.append(Error(str(error), id="container_manager.E011"))
            continue
        try:
            check_executor_options(app_settings(), alias)
        except ImproperlyConfigured as error:
            messages.append(Error(str(error), id="container_manager.E012"))
        try:
            check_host(app_settings(), alias)
        except ImproperlyConfigured as error:
            # Of the host of workers, which others need not be.
            messages.append(checks.Warning(str(error), id="container_manager.W003"))
    return messages


@register(Tags.security, deploy=True)
def check_isolation(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Warn about executors that do not isolate jobs from the worker's host."""
    if settings.DEBUG or setting_problems():
        return []
    open_ones = []
    for alias in app_settings().executors:
        try:
            if not executor_class(app_settings(), alias).capabilities.isolates:
                open_ones.append(alias)
        except ImproperlyConfigured:
            continue
    return [
        checks.Warning(
            f"Jobs of executor {alias!r} are not isolated: they can do whatever the worker's user can.",
            hint="Run only commands that you trust, by a user that owns nothing else; or silence this check.",
            id="container_manager.W001",
        )
        for alias in open_ones
    ]


@register(Tags.database)
def check_sqlite(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn about SQLite without BEGIN IMMEDIATE: concurrent writers get "database is locked"."""
    return [
        checks.Warning(
            f"Database {alias!r} is SQLite without immediate transactions: several processes will meet "
            "'database is locked'.",
            hint="Add 'transaction_mode': 'IMMEDIATE' to its OPTIONS.",
            id="container_manager.W002",
        )
        for alias in databases or ()
        if connections[alias].vendor == "sqlite"
        and connections[alias].settings_dict.get("OPTIONS", {}).get("transaction_mode") != "IMMEDIATE"
    ]

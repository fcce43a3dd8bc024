"""Use the app without a Django project, on an SQLite file of its own."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from ..conf import sqlite_database
from .log_lines import LOG_FORMAT, PACKAGE

DATABASE_VARIABLE = "CONTAINER_MANAGER_DATABASE"
CONFIG_VARIABLE = "CONTAINER_MANAGER_CONFIG"
_DEFAULT_DATABASE = "container_manager.sqlite3"


class Unusable(Exception):
    """The database file or the configuration file cannot be used; the text says which and why."""


def configure(*, database: bool = True) -> None:
    """Configure Django and create the tables, unless DJANGO_SETTINGS_MODULE names a project.

    ``database``: False to leave the database alone.

    The database is the file that CONTAINER_MANAGER_DATABASE names, by default ``container_manager.sqlite3`` here.
    CONTAINER_MANAGER_CONFIG may name a TOML file with the entries of the CONTAINER_MANAGER setting. Inside a project
    a line on stderr says which database it is. Raises Unusable.
    """
    import django
    from django.conf import settings

    if module := os.environ.get("DJANGO_SETTINGS_MODULE"):
        django.setup()
        _say(f"Using the settings {module}, whose default database is {settings.DATABASES['default'].get('NAME')}.")
        return
    config = os.environ.get(CONFIG_VARIABLE)
    path = Path(os.environ.get(DATABASE_VARIABLE, _DEFAULT_DATABASE)).absolute()
    if any((folder / "manage.py").is_file() for folder in (Path.cwd(), *Path.cwd().parents)):
        _say(f"Using {path}, not this project's database: for that, 'python manage.py container …'.")
    settings.configure(
        INSTALLED_APPS=["container_manager"],
        DATABASES={"default": sqlite_database(path)},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        CONTAINER_MANAGER=_entries(Path(config)) if config else {},
        USE_TZ=True,
        DEBUG=False,
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": LOG_FORMAT}},
            # The level of the handler, not of the logger: a worker logs more, unless its option says otherwise.
            "handlers": {
                "stderr": {
                    "class": "container_manager.cli.log_lines.PackageHandler",
                    "formatter": "line",
                    "level": "WARNING",
                }
            },
            "loggers": {PACKAGE: {"handlers": ["stderr"]}},
        },
    )
    django.setup()
    if not database:
        return
    from django.core.management import call_command
    from django.db import Error

    try:
        call_command("migrate", verbosity=0, interactive=False)
    except Error as error:
        raise Unusable(f"The database {path} cannot be used: {error}. {DATABASE_VARIABLE} names another.") from error


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _entries(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unusable(f"{CONFIG_VARIABLE} names {path}, which cannot be read: {error}.") from error

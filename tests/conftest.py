"""Fixtures of several modules; one line for each missing part instead of one for each skipped test."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hypothesis
import pytest
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.core.management.color import Style
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import post_migrate

from .prerequisites import MISSING

_FEW_ROWS_BYTES = 128 * 1024

# To import and to collect makes next to no garbage: to look for it took a fifth of the time.
gc.disable()
pytest.register_assert_rewrite("container_manager.testing.conformance")
# What takes how long says nothing on a busy machine.
hypothesis.settings.register_profile("steady", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("steady")


def pytest_collection_finish() -> None:
    """Leave what was imported and collected to no garbage collection of a test: to look through it takes longer than most."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count skipped tests by missing part; a test of another database's behaviour lacks nothing."""
    # A report of a skipped test has the file, the line and the reason as its ``longrepr``.
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", ())]
    missing = Counter(reason for reason in reasons if reason.startswith(MISSING))
    for reason, count in sorted(missing.items()):
        terminalreporter.write_line(f"{reason}: {count} tests skipped.")
    if others := len(reasons) - missing.total():
        terminalreporter.write_line(f"About other databases: {others} tests skipped.")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    """Let no flush between two tests make Django's content types and permissions anew, which takes longer than most tests.

    A test that needs them makes them.
    """
    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    post_migrate.connect(_forget_content_types)
    for database in connections.all():
        if database.vendor == "postgresql":
            database.ops.sql_flush = partial(_empty_what_was_written, database)


def _empty_what_was_written(database: BaseDatabaseWrapper, style: Style, tables: list[str], **_: object) -> list[str]:
    """Return the statements that empty the tables that have a page.

    PostgreSQL gives each table that is truncated, and each of its indexes, new files. That takes thirty times as long as
    to delete a few rows, so only tables that have grown are truncated.
    """
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT relname, pg_relation_size(oid) FROM pg_class"
            " WHERE relname = ANY(%s) AND pg_table_is_visible(oid) AND pg_relation_size(oid) > 0",
            [tables],
        )
        sizes = {database.ops.quote_name(name): size for name, size in cursor.fetchall()}
    if not sizes:
        return []
    written = ", ".join(sizes)
    if max(sizes.values()) > _FEW_ROWS_BYTES:
        # It refuses to truncate a table without those that refer to it, empty or not.
        return [f"TRUNCATE {written} CASCADE"]
    # Locked, so that what a session that ends just now commits is deleted too; and neither triggers nor foreign keys ask.
    return [
        f"LOCK TABLE {written}",
        "SET LOCAL session_replication_role = replica",
        *(f"DELETE FROM {name}" for name in sizes),
    ]


def _forget_content_types(**_: object) -> None:
    ContentType.objects.clear_cache()


@pytest.fixture(autouse=True)
def _own_content_types() -> None:
    """Let no test know of content types that an earlier one has made after a flush, and that were rolled back with it."""
    ContentType.objects.clear_cache()


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, None)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[dict[str, object]]:
    """Give the settings of an empty database, on the server of the tests if they have one."""
    names = ("ENGINE", "USER", "HOST", "PORT", "PASSWORD", "OPTIONS")
    settings = {name: connection.settings_dict[name] for name in names}
    if connection.vendor == "sqlite":
        yield {**settings, "NAME": str(tmp_path / "project.sqlite3")}
        return
    name = f"{connection.settings_dict['NAME']}_project"
    _execute(f"CREATE DATABASE {name}" + (" CHARACTER SET utf8mb4" if connection.vendor == "mysql" else ""))
    yield {**settings, "NAME": name}
    # A process that was killed may have left a session that the server has not yet noticed.
    _execute(f"DROP DATABASE {name}" + (" WITH (FORCE)" if connection.vendor == "postgresql" else ""))

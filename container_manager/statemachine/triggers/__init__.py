"""The triggers' SQL, one dialect per database."""

from __future__ import annotations

from functools import cache

from django.db import NotSupportedError
from django.db.backends.base.base import BaseDatabaseWrapper

from .dialect import Dialect
from .mysql import MySQLDialect
from .postgresql import PostgreSQLDialect
from .sqlite import SQLiteDialect

_DIALECTS: tuple[type[Dialect], ...] = (MySQLDialect, PostgreSQLDialect, SQLiteDialect)


def dialect_for(connection: BaseDatabaseWrapper) -> Dialect:
    """Return the dialect of a connection's database.

    Raises NotSupportedError for any other vendor: its tables would be unguarded.
    """
    if dialect := dialect_of(connection):
        return dialect
    raise NotSupportedError(
        f"State machines need triggers, which are written for {', '.join(dialect.vendor for dialect in _DIALECTS)}, "
        f"not for {connection.vendor!r}."
    )


def dialect_of(connection: BaseDatabaseWrapper) -> Dialect | None:
    """Return the dialect of a connection's database, or None where there is none."""
    return _dialect(connection.vendor, connection.timezone_name)


@cache
def _dialect(vendor: str, time_zone: str | None) -> Dialect | None:
    return next((dialect(time_zone) for dialect in _DIALECTS if dialect.vendor == vendor), None)

"""The store's SQL, one object per database."""

from __future__ import annotations

from functools import cache

from django.db import NotSupportedError
from django.db.backends.base.base import BaseDatabaseWrapper

from .mysql import MySQLStore
from .postgresql import PostgreSQLStore
from .sqlite import SQLiteStore
from .statements import StoreSQL


@cache
def _stores() -> dict[str, StoreSQL]:
    return {d.vendor: d for d in (SQLiteStore(), PostgreSQLStore(), MySQLStore())}


def store_sql(connection: BaseDatabaseWrapper) -> StoreSQL:
    """Return the dialect of a connection's database.

    Raises NotSupportedError for a vendor that has none.
    """
    try:
        return _stores()[connection.vendor]
    except KeyError:
        raise NotSupportedError(f"The store does not know the database {connection.vendor!r}.") from None

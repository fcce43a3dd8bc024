"""The store's SQL, one object per database."""

from __future__ import annotations

from functools import cache

from django.db.backends.base.base import BaseDatabaseWrapper

from ...statemachine.triggers import dialect_for
from ...statemachine.triggers.dialect import Dialect
from .mysql import MySQLStore
from .postgresql import PostgreSQLStore
from .sqlite import SQLiteStore
from .statements import StoreSQL

_STORES: tuple[type[StoreSQL], ...] = (MySQLStore, PostgreSQLStore, SQLiteStore)


def store_sql(connection: BaseDatabaseWrapper) -> StoreSQL:
    """Return the SQL for a connection's database and its time zone.

    Raises NotSupportedError for a vendor that has none, and for a time zone that `Dialect.utc_offset` refuses.
    """
    return _store(dialect_for(connection))


@cache
def _store(dialect: Dialect) -> StoreSQL:
    return next(store(dialect) for store in _STORES if store.vendor == dialect.vendor)

"""SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from math import ceil

from django.db.backends.base.base import BaseDatabaseWrapper

from ...statemachine.triggers.sqlite import SQLiteDialect
from .lanes import LaneSQL
from .row_by_row import RowByRowStore
from .statements import STATEMENT_SHARE


class SQLiteStore(RowByRowStore):
    """SQLite has no row locks: a transaction locks the database (BEGIN IMMEDIATE)."""

    vendor = "sqlite"
    dialect: SQLiteDialect
    lock = ""
    greatest = "MAX"
    by_key = "+{}"
    # Of the newest row (`RowIdField`).
    reuses_keys = True

    @property
    def now(self) -> str:
        return self.dialect.now

    def after(self, seconds: str) -> str:
        return self.dialect.time(f"'now', {seconds} || ' seconds'")

    def seconds_since(self, moment: str) -> str:
        return f"(julianday('now'{self.dialect.shift}) - julianday({moment})) * 86400.0"

    def microseconds(self, since: str, to: str) -> str:
        def since_1970(moment: str) -> str:
            # SQLite's own functions know milliseconds.
            return f"(strftime('%%s', substr({moment}, 1, 19)) * 1000000 + substr({moment} || '000000', 21, 6))"

        return f"{since_1970(to)} - {since_1970(since)}"

    def session_settings(self, connection: BaseDatabaseWrapper, *, lease_seconds: float) -> Sequence[str]:
        # Django's and sqlite3's own default is 5 s. The one lock is held for as long as a transaction takes.
        given = connection.settings_dict["OPTIONS"].get("timeout", 5.0)
        return (f"PRAGMA busy_timeout = {ceil(min(given, lease_seconds * STATEMENT_SHARE) * 1000)}",)

    def has_timed_out(self, error: BaseException) -> bool:
        # The extended codes have the plain one in their last byte.
        return getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def is_refusal(self, error: BaseException) -> bool:
        # SQLite stores text that is none, and Python's driver refuses to read it.
        return super().is_refusal(error) or str(error).startswith("Could not decode to UTF-8")

    @property
    def lanes(self) -> LaneSQL:
        # It may build an index of its own for the statement instead, from the whole table.
        return LaneSQL(now=self.now, force="INDEXED BY {}")

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT OR IGNORE INTO {rest}"

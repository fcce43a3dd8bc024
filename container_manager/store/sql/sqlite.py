"""SQLite."""

from __future__ import annotations

from ...statemachine.triggers.sqlite import SQLiteDialect
from .lanes import LaneSQL
from .row_by_row import RowByRowStore


class SQLiteStore(RowByRowStore):
    """SQLite has no row locks: a transaction locks the database (BEGIN IMMEDIATE)."""

    vendor = "sqlite"
    dialect: SQLiteDialect
    lock = ""
    by_key = "+{}"

    @property
    def now(self) -> str:
        return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'{self.dialect.shift})"

    def after(self, seconds: str) -> str:
        return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {seconds} || ' seconds'{self.dialect.shift})"

    def seconds_since(self, moment: str) -> str:
        return f"(julianday('now'{self.dialect.shift}) - julianday({moment})) * 86400.0"

    @property
    def lanes(self) -> LaneSQL:
        # It may build an index of its own for the statement instead, from the whole table.
        return LaneSQL(now=self.now, force="INDEXED BY {}")

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT OR IGNORE INTO {rest}"

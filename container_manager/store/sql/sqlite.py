"""SQLite."""

from __future__ import annotations

from ...statemachine.triggers.sqlite import SQLiteDialect
from .row_by_row import RowByRowStore


class SQLiteStore(RowByRowStore):
    """SQLite has no row locks: a transaction locks the database (BEGIN IMMEDIATE)."""

    vendor = "sqlite"
    dialect: SQLiteDialect
    lock = ""

    @property
    def now(self) -> str:
        return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'{self.dialect.shift})"

    def after(self, seconds: str) -> str:
        return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {seconds} || ' seconds'{self.dialect.shift})"

    def seconds_since(self, moment: str) -> str:
        return f"(julianday('now'{self.dialect.shift}) - julianday({moment})) * 86400.0"

    def is_refusal(self, error: BaseException) -> bool:
        # SQLite stores text that is none, and Python's driver refuses to read it.
        return super().is_refusal(error) or str(error).startswith("Could not decode to UTF-8")

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT OR IGNORE INTO {rest}"

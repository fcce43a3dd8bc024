"""SQLite."""

from __future__ import annotations

from ...statemachine.triggers.dialect import VERSIONS
from .row_by_row import RowByRowStore


class SQLiteStore(RowByRowStore):
    """A transaction of SQLite's has the database to itself (BEGIN IMMEDIATE), so no row need be locked."""

    vendor = "sqlite"
    now = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
    lock = ""
    version = f"random() & {VERSIONS - 1}"

    def after(self, seconds: str) -> str:
        return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {seconds} || ' seconds')"

    def seconds_since(self, moment: str) -> str:
        return f"(julianday('now') - julianday({moment})) * 86400.0"

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT OR IGNORE INTO {rest}"

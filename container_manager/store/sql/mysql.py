"""MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from django.db.backends.base.base import BaseDatabaseWrapper

from ...statemachine.triggers.dialect import VERSIONS
from .row_by_row import RowByRowStore


class MySQLStore(RowByRowStore):
    vendor = "mysql"
    now = "UTC_TIMESTAMP(6)"
    lock = " FOR UPDATE SKIP LOCKED"
    version = f"FLOOR(RAND() * {VERSIONS})"
    # InnoDB locks what it reads of an index: by another than the key that is in the other order, or other rows.
    by_key = "CAST({} AS BINARY)"
    # A small table would be scanned instead, and each row on the way locked.
    by_primary = "FORCE INDEX (PRIMARY)"

    def after(self, seconds: str) -> str:
        return f"UTC_TIMESTAMP(6) + INTERVAL {seconds} SECOND"

    def seconds_since(self, moment: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {moment}, UTC_TIMESTAMP(6)) / 1000000.0"

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        # MySQL has no such thing.
        is_mariadb = getattr(connection, "mysql_is_mariadb", False)
        return (f"SET SESSION idle_transaction_timeout = {ceil(idle_seconds)}",) if is_mariadb else ()

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT IGNORE INTO {rest}"

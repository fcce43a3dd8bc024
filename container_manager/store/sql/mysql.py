"""MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .row_by_row import RowByRowStore
from .statements import LOCK_SHARE, STATEMENT_SHARE

# A lock, a statement on MariaDB, a statement on MySQL.
_TIMED_OUT = (1205, 1969, 3024)


class MySQLStore(RowByRowStore):
    vendor = "mysql"
    lock = " FOR UPDATE SKIP LOCKED"
    # InnoDB locks the index entries that it reads. Another index than the key's has another order, and other rows.
    by_key = "CAST({} AS BINARY)"
    # The optimizer scans a small table instead, which locks every row.
    by_primary = "FORCE INDEX (PRIMARY)"

    @property
    def now(self) -> str:
        return self.dialect.now

    def after(self, seconds: str) -> str:
        return f"{self.now} + INTERVAL {seconds} SECOND"

    def seconds_since(self, moment: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {moment}, {self.now}) / 1000000.0"

    def session_settings(self, connection: BaseDatabaseWrapper, *, lease_seconds: float) -> Sequence[str]:
        lock, statement = ceil(lease_seconds * LOCK_SHARE), lease_seconds * STATEMENT_SHARE
        locks = f"SET SESSION innodb_lock_wait_timeout = {lock}, SESSION lock_wait_timeout = {lock}"
        if not getattr(connection, "mysql_is_mariadb", False):
            # MySQL does not limit idle transactions, and of statements only those that read.
            return (f"{locks}, SESSION max_execution_time = {ceil(statement * 1000)}",)
        idle = ceil(lease_seconds)
        return (f"{locks}, SESSION max_statement_time = {statement}, SESSION idle_transaction_timeout = {idle}",)

    def connect_options(self, *, seconds: float) -> Mapping[str, Any]:
        return {"connect_timeout": ceil(seconds)}

    def has_timed_out(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] in _TIMED_OUT)

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT IGNORE INTO {rest}"

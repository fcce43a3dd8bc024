"""MariaDB and MySQL."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from django.db.backends.base.base import BaseDatabaseWrapper

from .row_by_row import RowByRowStore

# A statement that has waited for so long is sent again, to skip locked rows. MySQL takes no less.
_LOCK_SECONDS = 1
_LOCK_WAIT_TIMEOUT, _SIGNALLED = 1205, 1644


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

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        # MySQL does not limit idle transactions.
        is_mariadb = getattr(connection, "mysql_is_mariadb", False)
        return (
            f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}",
            *([f"SET SESSION idle_transaction_timeout = {ceil(idle_seconds)}"] if is_mariadb else []),
        )

    def is_lock_timeout(self, error: BaseException) -> bool:
        return bool(error.args and error.args[0] == _LOCK_WAIT_TIMEOUT)

    def is_refusal(self, error: BaseException) -> bool:
        # What a trigger signals by itself is an OperationalError.
        return super().is_refusal(error) or bool(error.args and error.args[0] == _SIGNALLED)

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT IGNORE INTO {rest}"

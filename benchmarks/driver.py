"""The database driver without Django, in autocommit: what a hand-written guarded UPDATE would use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection

from container_manager.models import ContainerJob

_PLACEHOLDERS = {"sqlite": "?", "postgresql": "%s"}


class Driver:
    """One cursor, used again and again, so that the driver keeps its statements prepared."""

    def __init__(self) -> None:
        connection.ensure_connection()
        self._placeholder = _PLACEHOLDERS[connection.vendor]
        if connection.vendor == "postgresql":
            import psycopg

            parameters = connection.get_connection_params()
            address = {name: parameters[name] for name in ("dbname", "user", "host")}
            self._cursor: Any = psycopg.connect(**address, autocommit=True).cursor()
        else:
            # A second connection would lose its page cache at each turn of the first.
            self._cursor = connection.connection.cursor()

    def update(self, columns: Sequence[str], conditions: Sequence[str]) -> str:
        """Return an UPDATE of the table of jobs."""
        assignments = ", ".join(f"{column} = {self._placeholder}" for column in columns)
        where = " AND ".join(f"{column} = {self._placeholder}" for column in conditions)
        return f"UPDATE {ContainerJob._meta.db_table} SET {assignments} WHERE {where}"

    def values(self, values: Mapping[str, Any]) -> list[Any]:
        """Return values of ContainerJob's columns as the driver takes them."""
        field = ContainerJob._meta.get_field
        return [field(name).get_db_prep_save(value, connection) for name, value in values.items()]

    def run(self, sql: str, values: Sequence[Any], *, rows: int) -> None:
        """Execute and commit.

        Raises RuntimeError where another number of rows was changed.
        """
        self._cursor.execute(sql, values)
        if self._cursor.rowcount != rows:
            raise RuntimeError(f"{self._cursor.rowcount} rows changed, not {rows}.")

    def set_synchronous_commit(self, value: str) -> None:
        """Set it for this connection and for Django's, on PostgreSQL."""
        for cursor in (self._cursor, connection.cursor()):
            cursor.execute(f"SET synchronous_commit = {value}")

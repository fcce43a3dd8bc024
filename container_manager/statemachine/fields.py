"""`RowIdField`: the primary key of a table that is only ever appended to."""

from __future__ import annotations

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class RowIdField(models.BigAutoField):  # type: ignore[type-arg]  # only the stubs have arguments
    """A BigAutoField without AUTOINCREMENT on SQLite.

    That would write a second table for every row, a tenth of a transition. Without it the key still grows from row to
    row; only that of the newest row may come again once it has been deleted.
    """

    def db_type_suffix(self, connection: BaseDatabaseWrapper) -> str | None:
        return None if connection.vendor == "sqlite" else super().db_type_suffix(connection)

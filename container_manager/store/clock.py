"""The database's clock: the one by which all that is stored is compared with the present."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connections

from ..querysets import DatabaseNow


def database_now(*, using: str) -> datetime:
    """Return the present time by the database's clock, aware or naive as Django's own times."""
    connection = connections[using]
    sql, params = DatabaseNow().as_sql(None, connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {sql}", params)
        return django_time(cursor.fetchone()[0], using=using)


def django_time(value: Any, *, using: str) -> datetime:
    """Return a time that the driver has read, aware or naive as Django's own times."""
    connection, expression = connections[using], DatabaseNow()
    for convert in (*connection.ops.get_db_converters(expression), *expression.get_db_converters(connection)):
        value = convert(value, expression, connection)
    found: datetime = value
    return found

"""The database's clock: the one by which all that is stored is compared with the present."""

from __future__ import annotations

from datetime import datetime

from django.db import connections

from ..querysets import DatabaseNow


def database_now(*, using: str) -> datetime:
    """Return the present time by the database's clock, aware or naive as Django's own times."""
    connection, expression = connections[using], DatabaseNow()
    sql, params = expression.as_sql(None, connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {sql}", params)
        value: datetime = cursor.fetchone()[0]
    for convert in (*connection.ops.get_db_converters(expression), *expression.get_db_converters(connection)):
        value = convert(value, expression, connection)
    return value

"""A worker's sessions: what is set up in each, and what is not where other clients use the same session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import connections

from .sql import store_sql


def prepare_session(*, lease_seconds: float, using: str) -> None:
    """Prepare this thread's connection for a worker: nothing waits in the database for as long as a lease lasts.

    A transaction that is idle for that long is rolled back: a worker that freezes in one, or loses its host, would hold
    locks that others wait for. Locks and statements are waited for less long. Behind a pooler nothing is set, since
    other clients would have the settings too, and no statements are prepared, since the next one may go to a session
    that does not know them.
    """
    connection = connections[using]
    sql = store_sql(connection)
    if sql.is_pooled(connection):
        if hasattr(connection.connection, "prepare_threshold"):
            connection.connection.prepare_threshold = None
        return
    sql.prepare_statements(connection)
    for statement in sql.session_settings(connection, lease_seconds=lease_seconds):
        with connection.cursor() as cursor:
            cursor.execute(statement)


def connect_options(*, seconds: float, using: str) -> Mapping[str, Any]:
    """Return the options of the database's driver that limit how long it takes to connect."""
    return store_sql(connections[using]).connect_options(seconds=seconds)


def has_timed_out(error: BaseException, *, using: str) -> bool:
    """Tell whether a lock was not free in time, or a statement took too long: the same may succeed later."""
    return store_sql(connections[using]).has_timed_out(error)

"""A worker's sessions: what is set up in each, and what is not where other clients use the same session."""

from __future__ import annotations

from django.db import connections

from .sql import store_sql


def prepare_session(*, idle_seconds: float, using: str) -> None:
    """Prepare this thread's connection for a worker: the database rolls back transactions that are idle for this long.

    A worker that freezes in a transaction, or loses its host, would hold locks that others wait for. Behind a pooler
    nothing is set, since other clients would have the settings too, and no statements are prepared, since the next one
    may go to a session that does not know them. It takes no connection of Django's pool: those are for short use, and
    the next user would have the settings.
    """
    connection = connections[using]
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()
        connections[using] = connection = connection.copy()
        del connection.settings_dict["OPTIONS"]["pool"]
    sql = store_sql(connection)
    if sql.is_pooled(connection):
        if hasattr(connection.connection, "prepare_threshold"):
            connection.connection.prepare_threshold = None
        return
    for statement in sql.session_settings(connection, idle_seconds=idle_seconds):
        with connection.cursor() as cursor:
            cursor.execute(statement)


def end_session(*, using: str) -> None:
    """Close this thread's connection. The next user of the alias in this thread gets one as the project has set it."""
    connection = connections[using]
    connection.close()
    if connection.settings_dict["OPTIONS"] != connections.settings[using]["OPTIONS"]:
        del connections[using]

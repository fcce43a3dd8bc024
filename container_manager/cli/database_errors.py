"""Say in a sentence what the database refused, or that it cannot be reached."""

from __future__ import annotations

from django.db import (
    DatabaseError,
    DataError,
    Error,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connections,
)
from django.db.migrations.executor import MigrationExecutor

from ..worker.database import answers

# What a command can meet without a fault of ours; a ProgrammingError where tables are missing, a DataError for a value
# that does not fit.
EXPECTED_ERRORS = (OperationalError, InterfaceError, InternalError, ProgrammingError, DataError)
_APP = "container_manager"


def explained_error(error: Error, *, using: str) -> str | None:
    """Return a sentence for an error of the database; None for one that only a traceback explains."""
    said = str(error).strip().partition("\n")[0]
    if not _can_be_reached(using):
        return f"The database {using!r} cannot be reached: {said}"
    if _lacks_migrations(using):
        return f"The database {using!r} lacks migrations of {_APP}; run 'manage.py migrate'. It said: {said}"
    return None if isinstance(error, ProgrammingError) else f"The database {using!r} refused this: {said}"


def _can_be_reached(using: str) -> bool:
    """Tell whether the database answers; on a new connection, where that of the error has been closed."""
    try:
        connections[using].ensure_connection()
    except Error:
        return False
    return answers(using)


def _lacks_migrations(using: str) -> bool:
    try:
        executor = MigrationExecutor(connections[using])
        return bool(executor.migration_plan(executor.loader.graph.leaf_nodes(_APP)))
    except DatabaseError:
        return False

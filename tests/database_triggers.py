"""Triggers of a project's own on the jobs' table, which refuse what workers ask of some rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

MESSAGE = "not this one"
_CREATE = {
    "sqlite": [
        "CREATE TRIGGER project_refuses BEFORE UPDATE ON {table} WHEN {condition} "
        "BEGIN SELECT RAISE(ABORT, '{message}'); END",
    ],
    "postgresql": [
        "CREATE FUNCTION project_refuses() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '{message}'; END $$",
        "CREATE TRIGGER project_refuses BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION project_refuses()",
    ],
    "mysql": [
        "CREATE TRIGGER project_refuses BEFORE UPDATE ON {table} FOR EACH ROW "
        "IF {condition} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{message}'; END IF",
    ],
}
_DROP = {
    "sqlite": ["DROP TRIGGER project_refuses"],
    "postgresql": ["DROP TRIGGER project_refuses ON {table}", "DROP FUNCTION project_refuses"],
    "mysql": ["DROP TRIGGER project_refuses"],
}


@contextmanager
def refusing(condition: str, *, table: str = "container_manager_containerjob") -> Iterator[None]:
    """Let the database refuse each UPDATE of a row for which the condition holds, which names OLD and NEW."""
    values = {"table": table, "condition": condition, "message": MESSAGE}
    _run(_CREATE[connection.vendor], values)
    try:
        yield
    finally:
        _run(_DROP[connection.vendor], values)


def _run(statements: list[str], values: dict[str, str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement.format(**values), None)

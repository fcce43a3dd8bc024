"""django-tasks-db: one job at a time, without pauses."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from .base import Contender


class DjangoTasksDb(Contender):
    name = "django-tasks-db"
    per_second = 200

    def prepare(self, folder: str) -> None:
        from django.core.management import call_command

        call_command("migrate", "django_tasks_database", verbosity=0)

    def fill(self, connection: psycopg.Connection, count: int) -> None:
        from ..tasks import noop

        connection.execute("TRUNCATE django_tasks_database_dbtaskresult")
        for _ in range(count):
            noop.enqueue()
        connection.execute("VACUUM ANALYZE django_tasks_database_dbtaskresult")

    def unfinished(self, connection: psycopg.Connection) -> int:
        return connection.execute(
            "SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status <> 'SUCCESSFUL'"
        ).fetchone()[0]

    def work(self, folder: str, ready: Callable[[], None]) -> None:
        from django.core.management import call_command
        from django.db import connection

        connection.ensure_connection()
        ready()
        call_command("db_worker", batch=True, startup_delay=False, interval=0.0, reload=False, verbosity=0)


CONTENDERS = [DjangoTasksDb()]

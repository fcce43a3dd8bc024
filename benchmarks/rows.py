"""Tables full of jobs, and the driver's own connection to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from django.db import connection
from django.utils import timezone

from container_manager.models import ContainerJob, JobStatus

_CHUNK = 2000


def fill(model: Any, status: JobStatus, count: int) -> None:
    """Insert ``count`` rows like those of a real queue."""
    queued_at = None if status == JobStatus.PENDING else timezone.now()
    for start in range(0, count, _CHUNK):
        model.objects.bulk_create(
            model(
                name=f"report {number}",
                image="python:3.12-slim",
                command="python -m reports.monthly --month 2026-10",
                environment={"TZ": "UTC"},
                labels={"team": "reports"},
                status=status,
                queued_at=queued_at,
            )
            for number in range(start, min(start + _CHUNK, count))
        )
    analyze(model)


def analyze(model: Any) -> None:
    """Tell the planner how the table is, as a table of some age has been told."""
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {model._meta.db_table}")


class Pool:
    """Loaded instances of a model's rows, each given out once."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._keys: Iterable[Any] = iter(list(model.objects.order_by("pk").values_list("pk", flat=True)))

    def take(self, count: int) -> list[Any]:
        keys = list(islice(self._keys, count))
        if len(keys) < count:
            raise ValueError(f"{self._model.__name__} has no more rows.")
        return list(self._model.objects.filter(pk__in=keys))


class Template:
    """Rows of ContainerJob to start each round of a bulk measurement from."""

    def __init__(self, status: JobStatus, count: int) -> None:
        self._jobs, self._count = ContainerJob._meta.db_table, count
        self._emptied = ("container_manager_jobtransition", self._jobs)
        self._clear()
        fill(ContainerJob, status, count)
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS template")
            cursor.execute(f"CREATE TABLE template AS SELECT * FROM {self._jobs}")

    def restore(self) -> None:
        """Make the table of jobs what it was, and its journal empty."""
        self._clear()
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {self._jobs} SELECT * FROM template")
        analyze(ContainerJob)

    def _clear(self) -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"TRUNCATE {', '.join(self._emptied)} CASCADE")
            else:
                for table in self._emptied:
                    cursor.execute(f"DELETE FROM {table}")


class Driver:
    """The database driver without Django, in autocommit: what a hand-written guarded UPDATE would use."""

    _PLACEHOLDERS = {"sqlite": "?", "postgresql": "%s"}

    def __init__(self) -> None:
        connection.ensure_connection()
        if connection.vendor == "postgresql":
            import psycopg

            parameters = connection.get_connection_params()
            address = {name: parameters[name] for name in ("dbname", "user", "host")}
            self._cursor: Any = psycopg.connect(**address, autocommit=True).cursor()
        else:
            # A second connection would lose its page cache at each turn of the first.
            self._cursor = connection.connection.cursor()
        self._mark = self._PLACEHOLDERS[connection.vendor]

    def update(self, columns: Sequence[str], condition: str) -> str:
        """Return an UPDATE of the table of jobs; ``?`` in the condition stands for a value."""
        assignments = ", ".join(f"{column} = {self._mark}" for column in columns)
        return f"UPDATE {ContainerJob._meta.db_table} SET {assignments} WHERE {condition.replace('?', self._mark)}"

    def value(self, name: str, value: Any) -> Any:
        """Return a value as the driver takes it."""
        return ContainerJob._meta.get_field(name).get_db_prep_save(value, connection)

    def run(self, sql: str, values: Sequence[Any], *, rows: int) -> None:
        """Execute and commit.

        Raises RuntimeError where not as many rows were changed.
        """
        self._cursor.execute(sql, values)
        if self._cursor.rowcount != rows:
            raise RuntimeError(f"{self._cursor.rowcount} rows changed, not {rows}.")

    def set_synchronous_commit(self, value: str) -> None:
        """Set it for this connection and for Django's, on PostgreSQL."""
        self._cursor.execute(f"SET synchronous_commit = {value}")
        with connection.cursor() as cursor:
            cursor.execute(f"SET synchronous_commit = {value}")

"""Tables full of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from django.db import connection
from django.utils import timezone

from container_manager.models import ContainerJob, JobStatus, JobTransition

_CHUNK = 2000


def fill(model: Any, status: JobStatus, count: int) -> None:
    """Make a table hold ``count`` rows like those of a real queue, and no others."""
    empty(model)
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


def empty(model: Any) -> None:
    """Empty a table, and with the table of jobs its journal."""
    models = (JobTransition, model) if model is ContainerJob else (model,)
    tables = [m._meta.db_table for m in models]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"TRUNCATE {', '.join(tables)} CASCADE")
        else:
            for table in tables:
                cursor.execute(f"DELETE FROM {table}")


def analyze(model: Any) -> None:
    """Tell the planner how the table is, as a table of some age has been told."""
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {model._meta.db_table}")


class Pool:
    """Loaded instances of a model's rows, each given out once."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._keys = iter(list(model.objects.order_by("pk").values_list("pk", flat=True)))

    def take(self, count: int) -> Sequence[Any]:
        """Load the next rows.

        Raises ValueError where there are not as many.
        """
        keys = list(islice(self._keys, count))
        if len(keys) < count:
            raise ValueError(f"The pool of {self._model.__name__} is empty.")
        return list(self._model.objects.filter(pk__in=keys))


class Template:
    """A filled table of jobs that can be made anew at once."""

    def __init__(self, status: JobStatus, count: int) -> None:
        fill(ContainerJob, status, count)
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS template")
            cursor.execute(f"CREATE TABLE template AS SELECT * FROM {ContainerJob._meta.db_table}")

    def restore(self) -> None:
        """Make the table of jobs what it was, and its journal empty."""
        empty(ContainerJob)
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {ContainerJob._meta.db_table} SELECT * FROM template")
        analyze(ContainerJob)

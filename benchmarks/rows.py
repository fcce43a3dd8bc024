"""Tables full of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from django.db import connection
from django.utils import timezone

from container_manager.models import ContainerJob, JobStatus, JobTransition

_CHUNK = 2000


class Template:
    """Rows like those of a real queue, to fill any table of jobs with."""

    def __init__(self, status: JobStatus, count: int) -> None:
        self._table = f"template_{status}"
        _empty(ContainerJob)
        for start in range(0, count, _CHUNK):
            ContainerJob.objects.bulk_create(_job(status, n) for n in range(start, min(start + _CHUNK, count)))
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {self._table}")
            cursor.execute(f"CREATE TABLE {self._table} AS SELECT * FROM {ContainerJob._meta.db_table}")

    def fill(self, model: Any, count: int) -> None:
        """Make a table hold just these rows; the journal of ContainerJob is emptied too."""
        _empty(model)
        table = model._meta.db_table
        columns = ", ".join(connection.ops.quote_name(field.column) for field in model._meta.local_fields)
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {self._table} LIMIT {count}")
            # The planner is to know the table as it knows one of some age.
            cursor.execute(f"ANALYZE {table}")


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


def _job(status: JobStatus, number: int) -> ContainerJob:
    return ContainerJob(
        name=f"report {number}",
        image="python:3.12-slim",
        command="python -m reports.monthly --month 2026-10",
        environment={"TZ": "UTC"},
        labels={"team": "reports"},
        status=status,
        queued_at=None if status == JobStatus.PENDING else timezone.now(),
    )


def _empty(model: Any) -> None:
    models = (JobTransition, model) if model is ContainerJob else (model,)
    tables = [m._meta.db_table for m in models]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"TRUNCATE {', '.join(tables)} CASCADE")
        else:
            for table in tables:
                cursor.execute(f"DELETE FROM {table}")

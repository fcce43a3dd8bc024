"""Insert very many jobs with one statement of the database."""

from __future__ import annotations

from typing import Any

from django.db import connection

from container_manager.models import ContainerJob

from .jobs import columns_for

_TABLE = ContainerJob._meta.db_table
# The key of row n is made from n, so that keys grow as those of uuid7 do.
_KEYS = {
    "postgresql": "lpad(to_hex(n), 32, '0')::uuid",
    "sqlite": "printf('%%032x', n)",
    "mysql": "LPAD(HEX(n), 32, '0')",
}
_NUMBERS = {
    "postgresql": "generate_series({first}::bigint, {last}) AS numbers(n)",
    "sqlite": "(WITH RECURSIVE r(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM r WHERE n < {last}) SELECT n FROM r)",
    "mysql": "(SELECT seq AS n FROM seq_{first}_to_{last}) AS numbers",
}
_SECONDS_LATER = {
    "postgresql": "queued_at + make_interval(secs => n)",
    "sqlite": "replace(strftime('%%Y-%%m-%%d %%H:%%M:%%f', queued_at, n || ' seconds') || '000', '.000000', '')",
    "mysql": "queued_at + INTERVAL n SECOND",
}


class BulkJobs:
    """Insert many jobs, each a copy of one that Django has created."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, status: str, count: int, **fields: Any) -> None:
        """Add jobs in a status: priorities cycle through 0 to 49 unless one is given, each is queued a second after the last."""
        sample = ContainerJob.objects.create(command="true", status=status, **{**columns_for(status), **fields})
        first, self._count = self._count + 1, self._count + count
        changed = {"id": _KEYS[connection.vendor]}
        if status == "queued":
            changed["queued_at"] = _SECONDS_LATER[connection.vendor]
        if "priority" not in fields:
            changed["priority"] = "n %% 50"
        columns = [field.column for field in ContainerJob._meta.local_fields]
        values = ", ".join(changed.get(column, column) for column in columns)
        numbers = _NUMBERS[connection.vendor].format(first=first, last=self._count)
        key = ContainerJob._meta.pk.get_db_prep_value(sample.pk, connection)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {_TABLE} ({', '.join(columns)}) SELECT {values} FROM {_TABLE}, {numbers} WHERE id = %s",
                [key],
            )
        sample.delete()

    def analyze(self) -> None:
        """Update the statistics of the planner, as a running database would have done."""
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"VACUUM ANALYZE {_TABLE}")
            elif connection.vendor == "mysql":
                cursor.execute(f"ANALYZE TABLE {_TABLE}")
            else:
                cursor.execute(f"ANALYZE {_TABLE}")

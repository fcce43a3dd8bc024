"""How long a claim takes on a small table, and on one with very many jobs, finished and queued."""

from __future__ import annotations

import statistics
import time
import uuid
from typing import Any

import psycopg

_JOB = "container_manager_containerjob"
_COPY = f"""
INSERT INTO {_JOB} ({{columns}}) SELECT (lpad(to_hex(%s::bigint + i), 32, '0'))::uuid, {{rest}}
FROM {_JOB}, generate_series(1, %s) i WHERE id = %s
"""
_FEW, _FINISHED, _QUEUED = 1000, 1_000_000, 100_000
_BATCH, _CLAIMS = 10, 60


def measure_claims(connection: psycopg.Connection, *, quick: bool) -> tuple[float, float]:
    """Return the median seconds of a claim of ten: among a thousand queued jobs, and among very many."""
    share = 10 if quick else 1
    before = _claims(connection, finished=0, queued=_FEW)
    many = _claims(connection, finished=_FINISHED // share, queued=_QUEUED // share)
    after = _claims(connection, finished=0, queued=_FEW)
    # What is measured next begins with an empty queue.
    connection.execute(f"TRUNCATE {_JOB} CASCADE")
    return statistics.median(before + after), statistics.median(many)


def _claims(connection: psycopg.Connection, *, finished: int, queued: int) -> list[float]:
    from container_manager.store import claim

    connection.execute(f"TRUNCATE {_JOB} CASCADE")
    _fill(connection, "completed", finished, first=0)
    _fill(connection, "queued", queued, first=finished)
    connection.execute(f"VACUUM ANALYZE {_JOB}")
    taken = []
    for _ in range(_CLAIMS):
        start = time.perf_counter()
        jobs = claim(worker="benchmark", executors=["default"], limit=_BATCH, using="default")
        taken.append(time.perf_counter() - start)
        if len(jobs) != _BATCH:
            raise RuntimeError("The claim found too few jobs.")
    return taken


def _fill(connection: psycopg.Connection, status: str, count: int, *, first: int) -> None:
    """Add jobs as copies of one that Django made, with ids in the order of time, as UUIDv7 has them."""
    from django.utils import timezone

    from container_manager.models import ContainerJob

    if not count:
        return
    now = timezone.now()
    times: dict[str, Any] = {"queued_at": now}
    if status == "completed":
        times |= {"launched_at": now, "completed_at": now, "status_changed_at": now}
    sample = ContainerJob.objects.create(id=uuid.uuid4(), command="true", status=status, **times)
    columns = [f'"{field.column}"' for field in ContainerJob._meta.concrete_fields]
    statement = _COPY.format(columns=", ".join(columns), rest=", ".join(columns[1:]))
    connection.execute(statement, [first, count, sample.pk])
    sample.delete()

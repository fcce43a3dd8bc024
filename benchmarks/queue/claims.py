"""How long a claim takes on a small table, on one with very many jobs, finished and queued, and beside very many that it
may not take.
"""

from __future__ import annotations

import statistics
import time
import uuid
from datetime import timedelta
from typing import Any

import psycopg

_JOB = "container_manager_containerjob"
_COPY = f"""
INSERT INTO {_JOB} ({{columns}}) SELECT (lpad(to_hex(%s::bigint + i), 32, '0'))::uuid, {{rest}}
FROM {_JOB}, generate_series(1, %s) i WHERE id = %s
"""
_FEW, _FINISHED, _QUEUED = 1000, 1_000_000, 100_000
_OTHERS = 1_000_000
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


def measure_claims_beside_others(connection: psycopg.Connection, *, quick: bool) -> tuple[float, float]:
    """Return the median seconds of a claim of ten among a thousand: alone, and beside very many that it may not take.

    They are scheduled for later, in a paused queue, in a queue and for an executor of other workers: as many of each.
    """
    from django.utils import timezone

    from container_manager.queue import pause_queue, resume_queue

    count = _OTHERS // 10 if quick else _OTHERS
    kinds: list[dict[str, Any]] = [
        {"scheduled_for": timezone.now() + timedelta(days=1)},
        {"queue": "paused"},
        {"queue": "of others"},
        {"executor": "of others"},
    ]
    pause_queue("paused")
    before = _claims(connection, finished=0, queued=_FEW)
    connection.execute(f"TRUNCATE {_JOB} CASCADE")
    for number, kind in enumerate(kinds):
        _fill(connection, "queued", count, first=_FEW + number * count, priority=100, **kind)
    _fill(connection, "queued", _FEW, first=0)
    beside = _timed_claims(connection)
    after = _claims(connection, finished=0, queued=_FEW)
    connection.execute(f"TRUNCATE {_JOB} CASCADE")
    resume_queue("paused")
    return statistics.median(before + after), statistics.median(beside)


def _claims(connection: psycopg.Connection, *, finished: int, queued: int) -> list[float]:
    connection.execute(f"TRUNCATE {_JOB} CASCADE")
    _fill(connection, "completed", finished, first=0)
    _fill(connection, "queued", queued, first=finished)
    return _timed_claims(connection)


def _timed_claims(connection: psycopg.Connection) -> list[float]:
    from container_manager.store import claim

    connection.execute(f"VACUUM ANALYZE {_JOB}")
    taken = []
    for _ in range(_CLAIMS):
        start = time.perf_counter()
        jobs = claim(
            worker="benchmark", executors=["default"], queues=["default", "paused"], limit=_BATCH, using="default"
        )
        taken.append(time.perf_counter() - start)
        if len(jobs) != _BATCH:
            raise RuntimeError("The claim found too few jobs.")
    return taken


def _fill(connection: psycopg.Connection, status: str, count: int, *, first: int, **fields: Any) -> None:
    """Add jobs as copies of one that Django made, with ids in the order of time, as UUIDv7 has them."""
    from django.utils import timezone

    from container_manager.models import ContainerJob

    if not count:
        return
    now = timezone.now()
    times: dict[str, Any] = {"queued_at": now}
    if status == "completed":
        times |= {"launched_at": now, "completed_at": now, "status_changed_at": now}
    sample = ContainerJob.objects.create(id=uuid.uuid4(), command="true", status=status, **times, **fields)
    columns = [f'"{field.column}"' for field in ContainerJob._meta.concrete_fields]
    statement = _COPY.format(columns=", ".join(columns), rest=", ".join(columns[1:]))
    connection.execute(statement, [first, count, sample.pk])
    sample.delete()

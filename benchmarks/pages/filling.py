"""Fill the tables with what a busy installation has after a month: by SQL, a statement for each status.

What is live and what bears a name that is searched for is as much at each size: what grows is what lies beside it. Of the
journal and the attempts there is only what the pages of single jobs show.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from container_manager.models import (
    ContainerJob,
    JobAttempt,
    JobLog,
    JobTransition,
    QueueSpan,
    StatisticsProgress,
    Worker,
)

QUEUES, TEAMS, NAMES, WORKERS = 10, 100, 50_000, 5
_DAYS = 30
_JOBS = ContainerJob._meta.db_table
# Of all jobs; the others are completed.
_SHARES = {"failed": 0.05, "cancelled": 0.01}
_LIVE = {"queued": 10_000, "running": 200, "retrying": 200, "pending": 200}
# So many jobs bear names that are searched for.
_SEARCHED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Database:
    """SQL of one database; ``n``: a number that no other job has, ``{ms}``: when it was created, since 1970."""

    numbers: str
    key: str
    time: str
    text: str = "'{head}' || (n %% {of}) || '{tail}'"
    json: str = "{}"
    before: str = ""
    after: str = ""


_DATABASES = {
    "postgresql": _Database(
        numbers="generate_series({first}::bigint, {last}) AS numbers(n)",
        key="(lpad(to_hex({ms}), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8' "
        "|| lpad(to_hex(n), 15, '0'))::uuid",
        time="to_timestamp({ms} / 1000.0)",
        json="CAST({} AS jsonb)",
        # No trigger need look at each row.
        before="SET session_replication_role = replica",
        after="SET session_replication_role = origin",
    ),
    "sqlite": _Database(
        numbers="(WITH RECURSIVE r(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM r WHERE n < {last}) "
        "SELECT n FROM r) AS numbers",
        key="printf('%%012x7%%03x8%%015x', {ms}, n %% 4096, n)",
        time="strftime('%%Y-%%m-%%d %%H:%%M:%%f', {ms} / 1000.0, 'unixepoch')",
    ),
    "mysql": _Database(
        numbers="(SELECT seq AS n FROM seq_{first}_to_{last}) AS numbers",
        key="CONCAT(LPAD(HEX({ms}), 12, '0'), '7', LPAD(HEX(n %% 4096), 3, '0'), '8', LPAD(HEX(n), 15, '0'))",
        time="TIMESTAMPADD(MICROSECOND, ({ms}) * 1000, '1970-01-01')",
        text="CONCAT('{head}', n %% {of}, '{tail}')",
    ),
}
_BATCH = 250_000


def fill(count: int) -> None:
    """Add so many jobs, workers that run some of them, and a week's statistics."""
    live = {status: min(number, count // 100) for status, number in _LIVE.items()}
    counts = {**{status: int(count * share) for status, share in _SHARES.items()}, **live}
    counts = {"completed": count - sum(counts.values()), **counts}
    done = 0
    with connection.cursor() as cursor:
        database = _DATABASES[connection.vendor]
        if database.before:
            cursor.execute(database.before)
        for status, number in counts.items():
            _add(cursor, database, status, done, number)
            done += number
        if database.after:
            cursor.execute(database.after)
    _add_workers()
    _add_statistics()
    _add_details()
    with connection.cursor() as cursor:
        analyze = {"postgresql": "VACUUM ANALYZE", "mysql": "ANALYZE TABLE {}", "sqlite": "ANALYZE"}
        for table in (_JOBS, QueueSpan._meta.db_table):
            cursor.execute(analyze[connection.vendor].format(table))


def _add(cursor: Any, database: _Database, status: str, done: int, count: int) -> None:
    """Add jobs of a status: finished ones over the month, others in the last hour."""
    sample = ContainerJob.objects.create(command="true", status=status, image="python:3.12-slim", **_fields(status))
    finished = status in ("completed", "failed", "cancelled")
    # Finished jobs are older than those that wait and run.
    end = int(time.time() * 1000) - (3_700_000 if finished else 1000)
    step = max(1, int((_DAYS * 86_400_000 if finished else 3_500_000) / count))
    ms = f"({end - step * count} + (n - {done}) * {step})"
    moment = database.time.format(ms=ms)
    values = {
        "id": database.key.format(ms=ms),
        "name": f"CASE WHEN n <= {_SEARCHED} THEN {database.text.format(head='nightly-', of=NAMES, tail='')} "
        f"ELSE {database.text.format(head='other-', of=NAMES, tail='')} END",
        "queue": database.text.format(head="q", of=QUEUES, tail=""),
        "labels": database.json.format(database.text.format(head='{"team": "team', of=TEAMS, tail='"}')),
        "created_at": moment,
        "priority": "CASE WHEN n %% 10 = 0 THEN 90 WHEN n %% 10 = 1 THEN 10 ELSE 50 END",
        "status_changed_at": moment,
        **{name: moment for name in _fields(status) if name.endswith("_at")},
    }
    if status == "running":
        values["worker"] = database.text.format(head="w", of=WORKERS, tail="")
    columns = [field.column for field in ContainerJob._meta.local_fields]
    selected = ", ".join(values.get(column, column) for column in columns)
    key = ContainerJob._meta.pk.get_db_prep_value(sample.pk, connection)
    for first in range(done + 1, done + count + 1, _BATCH):
        numbers = database.numbers.format(first=first, last=min(first + _BATCH - 1, done + count))
        cursor.execute(
            f"INSERT INTO {_JOBS} ({', '.join(columns)}) SELECT {selected} FROM {_JOBS}, {numbers} WHERE id = %s", [key]
        )
    cursor.execute(f"DELETE FROM {_JOBS} WHERE id = %s", [key])


def _fields(status: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {"queued_at": now} if status == "queued" else {}
    if status in ("running", "failed", "retrying", "completed"):
        fields = {"launched_at": now, "attempt": 1}
    if status == "completed":
        fields |= {"completed_at": now, "exit_code": 0}
    if status in ("failed", "retrying"):
        fields |= {"exit_code": 1, "failure_reason": "error", "last_error": "The command ended with exit code 1."}
    if status == "retrying":
        fields["scheduled_for"] = now + timedelta(hours=1)
    return fields


def _add_workers() -> None:
    now = datetime.now(UTC)
    for number in range(WORKERS):
        Worker.objects.create(
            id=f"w{number}",
            host="host",
            pid=number,
            lease_expires_at=now + timedelta(days=1),
            executors=["default"],
            slots=50,
        )


def _add_statistics() -> None:
    """Add rows for each queue and minute and hour of a week, and the totals."""
    last = int(time.time() // 60)
    first = last - 7 * 24 * 60
    first -= first % QueueSpan.HOUR
    counts = {"created": 60, "started": 60, "completed": 57, "failed": 3, "wait_3": 60, "run_7": 60}
    seconds = {"wait_seconds": 10.0, "run_seconds": 600.0}
    begins = {
        QueueSpan.TOTAL: [0],
        **{step: range(first, last + 1, step) for step in (QueueSpan.MINUTE, QueueSpan.HOUR)},
    }
    rows = [
        QueueSpan(
            length=length,
            minute=minute,
            queue=f"q{number}",
            **{name: value * max(1, length) for name, value in (counts | seconds).items()},
        )
        for length, minutes in begins.items()
        for minute in minutes
        for number in range(QUEUES)
    ]
    QueueSpan.objects.bulk_create(rows, batch_size=500)
    StatisticsProgress.objects.update_or_create(
        defaults={"created_to": last, "created_again_to": last, "counted_at": datetime.now(UTC)}
    )


def _add_details() -> None:
    """Give the last failed job, whose page is looked at, a history and an output."""
    job = ContainerJob.objects.filter(status="failed").order_by("-status_changed_at", "-id")[0]
    for source, target in (("pending", "queued"), ("queued", "running"), ("running", "failed")):
        JobTransition.objects.create(job=job, from_status=source, to_status=target, at=job.created_at)
    attempt = JobAttempt.objects.create(
        job=job,
        number=1,
        worker="w1",
        executor="default",
        launched_at=job.created_at,
        finished_at=job.created_at,
        exit_code=1,
        reason="error",
    )
    JobLog.objects.bulk_create(
        JobLog(attempt=attempt, sequence=number, stream="stdout", data=b"a line of output\n") for number in range(200)
    )

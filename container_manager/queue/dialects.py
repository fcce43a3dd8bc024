"""The queue's SQL, one object per database.

PostgreSQL claims and finishes a batch in one statement each; the others in one short transaction.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import NotSupportedError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..models import ContainerJob
from ..statemachine.dialects.base import VERSIONS

if TYPE_CHECKING:
    from .attempts import Outcome

JOB_COLUMNS = (
    "id",
    "attempt",
    "executor",
    "image",
    "command",
    "environment",
    "secrets",
    "working_directory",
    "container",
    "memory_bytes",
    "cpu_count",
    "timeout_seconds",
    "grace_seconds",
    "retry_count",
    "max_retries",
    "labels",
)
_CLAIM = """
    status = 'running', worker = %s, attempt = {job}attempt + 1, launched_at = {now}, exit_code = NULL,
    failure_reason = '', last_error = '', status_version = {version}, status_changed_at = {now},
    status_changed_by = %s, status_changed_reason = ''"""
_ATTEMPT_COLUMNS = "job_id, number, worker, executor, handle, launched_at, reason, message"
_OUTCOME_NUMBERS = ("attempt", "exit_code", "signal", "peak_memory_bytes", "cpu_seconds")
Keys = set[tuple[uuid.UUID, int]]


class Dialect(ABC):
    """What differs between databases. Stateless."""

    vendor: ClassVar[str]
    now: ClassVar[str]
    # Whether an outcome that is not to be retried needs no transaction around it.
    finishes_in_one_statement: ClassVar[bool] = False
    # A version that no other transition has; never a counter, for the reasons of statemachine.machine.new_version().
    version: ClassVar[str]
    # How to compare a column, so that a row is found by its key and not by an index of this column.
    by_key: ClassVar[str] = "{}"
    # How to have several rows found by their keys.
    by_primary: ClassVar[str] = ""
    # How to lock the rows of a SELECT, all but those that others have locked.
    lock: ClassVar[str]

    @abstractmethod
    def after(self, seconds: str) -> str:
        """Return SQL for a time that many seconds from now."""

    @abstractmethod
    def seconds_since(self, moment: str) -> str:
        """Return SQL for the seconds gone since a time."""

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        """Return what a worker tells the database first; to end transactions that sleep for so long, where it can."""
        return ()

    @abstractmethod
    def insert_ignoring_duplicates(self, rest: str) -> str:
        """Return an INSERT INTO that leaves rows out which are there already."""

    @abstractmethod
    def claim(
        self, connection: BaseDatabaseWrapper, worker: str, candidates: tuple[str, list[Any]]
    ) -> Sequence[Sequence[Any]]:
        """Claim the jobs of a SELECT; return their columns and the seconds since their launch."""

    @abstractmethod
    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome]
    ) -> tuple[set[uuid.UUID], Keys]:
        """Store outcomes; return the jobs moved and the attempts closed.

        Inside a transaction, unless ``finishes_in_one_statement`` and none is to be retried.
        """

    def unserved_executors(self, cursor: Any, executors: Sequence[str]) -> list[str]:
        """Return these executors, and those that have an open attempt but no live worker to serve them."""
        cursor.execute(f"SELECT executors FROM container_manager_worker WHERE lease_expires_at >= {self.now}", [])
        served = {alias for (aliases,) in cursor.fetchall() for alias in json.loads(aliases)}
        cursor.execute("SELECT DISTINCT executor FROM container_manager_jobattempt WHERE finished_at IS NULL")
        return [*executors, *({row[0] for row in cursor.fetchall()} - served - set(executors))]

    def candidates(
        self,
        connection: BaseDatabaseWrapper,
        executors: Sequence[str],
        queues: Sequence[str] | None,
        only: uuid.UUID | None,
        limit: int,
    ) -> tuple[str, list[Any]]:
        """Return the SELECT of the jobs to claim next, and its parameters."""
        params: list[Any] = [*executors]
        where = f"executor IN ({', '.join(['%s'] * len(executors))})"
        if queues is not None:
            where += f" AND queue IN ({', '.join(['%s'] * len(queues))})"
            params.extend(queues)
        if only is not None:
            where += " AND id = %s"
            params.append(ContainerJob._meta.pk.get_db_prep_value(only, connection))
        return (
            f"SELECT id FROM container_manager_containerjob WHERE status = 'queued' AND {where} "
            f"AND (scheduled_for IS NULL OR scheduled_for <= {self.now}) "
            "AND queue NOT IN (SELECT name FROM container_manager_pausedqueue) "
            "ORDER BY priority DESC, queued_at, id LIMIT %s",
            [*params, limit],
        )


class PostgreSQLDialect(Dialect):
    vendor = "postgresql"
    now = "statement_timestamp()"
    finishes_in_one_statement = True
    version = f"floor(random() * {VERSIONS})"
    lock = " FOR UPDATE SKIP LOCKED"

    def after(self, seconds: str) -> str:
        return f"statement_timestamp() + make_interval(secs => {seconds})"

    def seconds_since(self, moment: str) -> str:
        return f"EXTRACT(EPOCH FROM statement_timestamp() - {moment})"

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        return (
            f"SET idle_in_transaction_session_timeout = {ceil(idle_seconds * 1000)}",
            # Where statements are prepared: to plan one anew takes as long as to claim or finish a job.
            "SET plan_cache_mode = force_generic_plan",
            # A plan that is kept must not be the one that suits a table while it is small. (Where no index serves, that
            # looks so dear that it would be compiled.)
            "SET enable_seqscan = off",
            "SET jit = off",
        )

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT INTO {rest} ON CONFLICT DO NOTHING"

    def claim(
        self, connection: BaseDatabaseWrapper, worker: str, candidates: tuple[str, list[Any]]
    ) -> Sequence[Sequence[Any]]:
        select, params = candidates
        with connection.cursor() as cursor:
            cursor.execute(_postgresql_claim(select), [*params, worker, worker, worker])
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows

    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome]
    ) -> tuple[set[uuid.UUID], Keys]:
        # The driver turns each member of a list into text on its own, which takes longer than all the rest: so what
        # needs no quoting goes as one text, and what nobody has not at all.
        columns: list[Any] = [_array([o.job_id.hex for o in outcomes]), _array([o.status for o in outcomes])]
        for name in ("reason", "message"):
            texts = [getattr(o, name) for o in outcomes]
            columns.append(texts if any(texts) else None)
        columns += [_array([getattr(o, name) for o in outcomes]) for name in _OUTCOME_NUMBERS]
        with connection.cursor() as cursor:
            cursor.execute(_POSTGRESQL_FINISH, [*columns, worker, worker, worker])
            exceptions = cursor.fetchall()
            done = {o.job_id for o in outcomes} - {key for key, _, is_done, _ in exceptions if not is_done}
            retries = [o for o in outcomes if o.retry_after_seconds is not None and o.job_id in done]
            if retries:
                cursor.execute(
                    _POSTGRESQL_RETRY,
                    [worker, [o.job_id for o in retries], [o.retry_after_seconds for o in retries]],
                )
        closed = {(o.job_id, o.attempt) for o in outcomes}
        return done, closed - {(key, number) for key, number, _, is_closed in exceptions if not is_closed}


def _array(values: Sequence[str | float | None]) -> str | None:
    """Return PostgreSQL's text for an array of numbers or plain words; None where all are."""
    if all(value is None for value in values):
        return None
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


_OF_POSTGRESQL = {"now": PostgreSQLDialect.now, "version": PostgreSQLDialect.version}


@cache
def _postgresql_claim(select: str) -> str:
    # The jobs are named by an array, so that the planner finds them by primary key however old its statistics are.
    return f"""
WITH candidate AS MATERIALIZED ({select}{PostgreSQLDialect.lock}), claimed AS (
    UPDATE container_manager_containerjob j SET {_CLAIM.format(job="j.", **_OF_POSTGRESQL)}
    WHERE j.id = ANY(ARRAY(SELECT id FROM candidate))
    RETURNING {", ".join(f"j.{name}" for name in JOB_COLUMNS)}, j.priority, j.queued_at, j.launched_at
), opened AS (
    INSERT INTO container_manager_jobattempt ({_ATTEMPT_COLUMNS})
    SELECT id, attempt, %s, executor, '', launched_at, '', '' FROM claimed
)
SELECT {", ".join(JOB_COLUMNS)}, 0 FROM claimed ORDER BY priority DESC, queued_at, id
"""


# An attempt is closed with its job, or alone where the job was moved on by others (cancelled). The answer names only
# what was not both done and closed. No index serves a CASE, which keeps the planner to the keys: it takes a worker's
# open attempts, or running jobs, for one row, and then compares each with each.
_POSTGRESQL_FINISH = """
WITH outcome AS MATERIALIZED (
    SELECT job_id, number, status, COALESCE(reason, '') AS reason, COALESCE(message, '') AS message, exit_code, signal,
        peak_memory_bytes, cpu_seconds
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::int[], %s::bigint[],
        %s::float8[]) AS o(job_id, status, reason, message, number, exit_code, signal, peak_memory_bytes, cpu_seconds)
), done AS (
    UPDATE container_manager_containerjob j SET status = o.status,
        completed_at = CASE WHEN o.status = 'completed' THEN {now} END, exit_code = o.exit_code,
        failure_reason = o.reason, last_error = o.message, worker = '', status_version = {version},
        status_changed_at = {now}, status_changed_by = %s, status_changed_reason = o.reason
    FROM outcome o WHERE j.id = o.job_id AND o.status IS NOT NULL
        AND CASE WHEN j.status = 'running' AND j.attempt = o.number THEN j.worker END = %s
    RETURNING j.id
), closed AS (
    UPDATE container_manager_jobattempt a SET finished_at = {now}, exit_code = o.exit_code, signal = o.signal,
        reason = o.reason, message = o.message, peak_memory_bytes = o.peak_memory_bytes, cpu_seconds = o.cpu_seconds
    FROM outcome o WHERE a.job_id = o.job_id AND a.number = o.number
        AND CASE WHEN a.finished_at IS NULL THEN a.worker END = %s
        AND (o.job_id IN (SELECT id FROM done) OR NOT EXISTS (
            SELECT FROM container_manager_containerjob j
            WHERE j.id = o.job_id AND CASE WHEN j.status = 'running' THEN j.attempt END = o.number))
    RETURNING a.job_id, a.number
), fate AS (
    SELECT job_id, number, job_id IN (SELECT id FROM done) AS is_done,
        (job_id, number) IN (SELECT job_id, number FROM closed) AS is_closed FROM outcome
)
SELECT * FROM fate WHERE NOT (is_done AND is_closed)
""".format(**_OF_POSTGRESQL)
_POSTGRESQL_RETRY = """
UPDATE container_manager_containerjob j SET status = 'retrying', retry_count = j.retry_count + 1,
    scheduled_for = {now} + make_interval(secs => r.seconds), status_version = {version},
    status_changed_at = {now}, status_changed_by = %s
FROM unnest(%s::uuid[], %s::float8[]) AS r(id, seconds) WHERE j.id = r.id AND j.status = 'failed'
""".format(**_OF_POSTGRESQL)


class RowByRowDialect(Dialect):
    """Claims by SELECT and UPDATE, finishes row by row, within one transaction."""

    def claim(
        self, connection: BaseDatabaseWrapper, worker: str, candidates: tuple[str, list[Any]]
    ) -> Sequence[Sequence[Any]]:
        select, params = candidates
        with transaction.atomic(using=connection.alias, savepoint=False), connection.cursor() as cursor:
            cursor.execute(select + self.lock, params)
            keys = [row[0] for row in cursor.fetchall()]
            if not keys:
                return []
            marks = ", ".join(["%s"] * len(keys))
            change = _CLAIM.format(job="", now=self.now, version=self.version)
            cursor.execute(
                f"UPDATE container_manager_containerjob {self.by_primary} SET {change} "
                f"WHERE id IN ({marks}) AND {self.by_key.format('status')} = 'queued'",
                [worker, worker, *keys],
            )
            mine = f"FROM container_manager_containerjob WHERE id IN ({marks}) AND status = 'running' AND worker = %s"
            cursor.execute(
                f"INSERT INTO container_manager_jobattempt ({_ATTEMPT_COLUMNS}) "
                f"SELECT id, attempt, worker, executor, '', launched_at, '', '' {mine}",
                [*keys, worker],
            )
            cursor.execute(
                f"SELECT {', '.join(JOB_COLUMNS)}, 0 {mine} ORDER BY priority DESC, queued_at, id", [*keys, worker]
            )
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows

    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome]
    ) -> tuple[set[uuid.UUID], Keys]:
        done: set[uuid.UUID] = set()
        closed: Keys = set()
        key_field = ContainerJob._meta.pk
        # MariaDB reserves the word.
        signal = connection.ops.quote_name("signal")
        close = _CLOSE.format(now=self.now, signal=signal, worker=self.by_key.format("worker"))
        with connection.cursor() as cursor:
            for o in outcomes:
                key = key_field.get_db_prep_value(o.job_id, connection)
                if o.status is not None and self._finish_job(cursor, worker, key, o):
                    done.add(o.job_id)
                cursor.execute(
                    close,
                    [
                        *(o.exit_code, o.signal, o.reason, o.message, o.peak_memory_bytes, o.cpu_seconds),
                        *(key, o.attempt, worker, key, o.attempt),
                    ],
                )
                if cursor.rowcount:
                    closed.add((o.job_id, o.attempt))
        return done, closed

    def _finish_job(self, cursor: Any, worker: str, key: Any, o: Outcome) -> bool:
        completed = self.now if o.status == "completed" else "NULL"
        cursor.execute(
            _FINISH.format(
                now=self.now, version=self.version, completed_at=completed, status=self.by_key.format("status")
            ),
            [o.status, o.exit_code, o.reason, o.message, worker, o.reason, key, worker, o.attempt],
        )
        if not cursor.rowcount:
            return False
        if o.retry_after_seconds is not None:
            retry = _RETRY.format(
                now=self.now, version=self.version, due=self.after("%s"), status=self.by_key.format("status")
            )
            cursor.execute(retry, [o.retry_after_seconds, worker, key])
        return True


_FINISH = """
UPDATE container_manager_containerjob SET status = %s, completed_at = {completed_at}, exit_code = %s,
    failure_reason = %s, last_error = %s, worker = '', status_version = {version},
    status_changed_at = {now}, status_changed_by = %s, status_changed_reason = %s
WHERE id = %s AND {status} = 'running' AND worker = %s AND attempt = %s
"""
_RETRY = """
UPDATE container_manager_containerjob SET status = 'retrying', retry_count = retry_count + 1, scheduled_for = {due},
    status_version = {version}, status_changed_at = {now}, status_changed_by = %s
WHERE id = %s AND {status} = 'failed'
"""
_CLOSE = """
UPDATE container_manager_jobattempt SET finished_at = {now}, exit_code = %s, {signal} = %s, reason = %s, message = %s,
    peak_memory_bytes = %s, cpu_seconds = %s
WHERE job_id = %s AND number = %s AND {worker} = %s AND finished_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM container_manager_containerjob j WHERE j.id = %s AND j.status = 'running' AND j.attempt = %s)
"""


class SQLiteDialect(RowByRowDialect):
    """A transaction of SQLite's has the database to itself (BEGIN IMMEDIATE), so no row need be locked."""

    vendor = "sqlite"
    now = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
    lock = ""
    version = f"random() & {VERSIONS - 1}"

    def after(self, seconds: str) -> str:
        return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {seconds} || ' seconds')"

    def seconds_since(self, moment: str) -> str:
        return f"(julianday('now') - julianday({moment})) * 86400.0"

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT OR IGNORE INTO {rest}"


class MySQLDialect(RowByRowDialect):
    vendor = "mysql"
    now = "UTC_TIMESTAMP(6)"
    lock = " FOR UPDATE SKIP LOCKED"
    version = f"FLOOR(RAND() * {VERSIONS})"
    # InnoDB locks what it reads of an index: by another than the key that is in the other order, or other rows.
    by_key = "CAST({} AS BINARY)"
    # A small table would be scanned instead, and each row on the way locked.
    by_primary = "FORCE INDEX (PRIMARY)"

    def after(self, seconds: str) -> str:
        return f"UTC_TIMESTAMP(6) + INTERVAL {seconds} SECOND"

    def seconds_since(self, moment: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {moment}, UTC_TIMESTAMP(6)) / 1000000.0"

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        # MySQL has no such thing.
        is_mariadb = getattr(connection, "mysql_is_mariadb", False)
        return (f"SET SESSION idle_transaction_timeout = {ceil(idle_seconds)}",) if is_mariadb else ()

    def insert_ignoring_duplicates(self, rest: str) -> str:
        return f"INSERT IGNORE INTO {rest}"


@cache
def _dialects() -> dict[str, Dialect]:
    return {d.vendor: d for d in (SQLiteDialect(), PostgreSQLDialect(), MySQLDialect())}


def dialect_for(connection: BaseDatabaseWrapper) -> Dialect:
    """Return the dialect of a connection's database.

    Raises NotSupportedError for a vendor that has none.
    """
    try:
        return _dialects()[connection.vendor]
    except KeyError:
        raise NotSupportedError(f"The queue does not know the database {connection.vendor!r}.") from None

"""The base of the store's SQL: what the databases share, and what each must define.

PostgreSQL claims and finishes a batch in one statement each; the others in one short transaction. What a transition
writes comes from the state machine (`ContainerJob.transition_effects`); the store adds only what a worker knows.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.db import DataError, Error, IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob, JobStatus
from ...statemachine.assignments import assignments, column_sql
from ...statemachine.triggers.dialect import Dialect
from ..values import Outcome
from .lanes import LANES, Lane, LaneSQL, Wanted, batches, only_sql

ATTEMPT_COLUMNS = "job_id, number, worker, executor, engine, handle, launched_at, reason, message"
# How much of a lease a worker's session waits for a lock, and for a statement.
LOCK_SHARE, STATEMENT_SHARE = 1 / 6, 1 / 3
Keys = set[tuple[uuid.UUID, int]]


class StoreSQL(ABC):
    """The store's SQL for one dialect. Without other state, so that each text is built once."""

    vendor: ClassVar[str]
    # Whether outcomes without a retry need no transaction around them.
    finishes_in_one_statement: ClassVar[bool] = False
    # Compares a column so that no index of it is used: the row is then found by its key.
    by_key: ClassVar[str] = "{}"
    # Makes an UPDATE of several keys use the primary key.
    by_primary: ClassVar[str] = ""
    # Locks the rows of a SELECT and skips those locked by other transactions.
    lock: ClassVar[str]
    # Whether the key of a row that was deleted may be that of a later one.
    reuses_keys: ClassVar[bool] = False
    # The function that returns the latest of several times.
    greatest: ClassVar[str] = "GREATEST"
    # Locks the rows of a SELECT as a foreign key to them does, and skips those that it would wait for; "" to wait.
    lock_referred: ClassVar[str] = ""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    @property
    @abstractmethod
    def now(self) -> str:
        """SQL for the present time, as Django stores it."""

    @property
    def lanes(self) -> LaneSQL:
        """The SQL of lanes for this database."""
        return LaneSQL(now=self.now)

    def claim_columns(self, *, row: str = "") -> str:
        """Return the SET list of a claim; its parameters are the worker and the actor."""
        changes = assignments(ContainerJob, JobStatus.RUNNING, self.dialect, now=self.now, row=row)
        return self._set_list(changes, worker="%s", attempt=f"{row}attempt + 1", status_changed_by="%s")

    def finish_columns(
        self, changes: Mapping[str, str], *, exit_code: str = "%s", reason: str = "%s", message: str = "%s"
    ) -> str:
        """Return the SET list of a finish; its parameters, unless given: exit code, reason, message, actor, reason."""
        return self._set_list(
            changes,
            exit_code=exit_code,
            failure_reason=reason,
            last_error=message,
            status_changed_by="%s",
            status_changed_reason=reason,
        )

    def retry_columns(self, *, due: str, counts: str = "%s", row: str = "") -> str:
        """Return the SET list of a retry; its parameters are those of ``counts`` (1 or 0), ``due`` and the actor.

        All writers but this one count each retry: only a worker knows that an attempt was lost.
        """
        changes = assignments(ContainerJob, JobStatus.RETRYING, self.dialect, now=self.now, row=row)
        reason = f"{row}failure_reason"
        return self._set_list(
            changes,
            retry_count=f"{row}retry_count + {counts}",
            scheduled_for=due,
            status_changed_by="%s",
            status_changed_reason=reason,
        )

    def _set_list(self, changes: Mapping[str, str], **known: str) -> str:
        """Return a SET list: what the state machine says, then what the store knows, in its order."""
        merged = {name: sql for name, sql in changes.items() if name not in known} | known
        return ", ".join(f"{column_sql(ContainerJob, name, self.dialect)} = {sql}" for name, sql in merged.items())

    def lease_holds(self, *, row: str = "") -> str:
        """Return the condition that a worker is live; `WorkerQuerySet.live` is the same for the ORM."""
        return f"{row}lease_expires_at >= {self.now}"

    def lease_has_expired(self, *, row: str = "") -> str:
        """Return the opposite of `lease_holds`."""
        return f"{row}lease_expires_at < {self.now}"

    @abstractmethod
    def after(self, seconds: str) -> str:
        """Return SQL for a time that many seconds from now."""

    @abstractmethod
    def seconds_since(self, moment: str) -> str:
        """Return SQL for the seconds since a time."""

    @abstractmethod
    def microseconds(self, since: str, to: str) -> str:
        """Return SQL for the microseconds from a column's time to another's: a whole number, null if one is null."""

    def minute(self, moment: str) -> str:
        """Return SQL for a value that all times of the same minute have in common, and no others."""
        return f"SUBSTR({moment}, 1, 16)"

    @abstractmethod
    def session_settings(self, connection: BaseDatabaseWrapper, *, lease_seconds: float) -> Sequence[str]:
        """Return the statements that set up a worker's session.

        They limit, as far as the database can do that, idle transactions to ``lease_seconds``, the wait for a lock to
        `LOCK_SHARE` of that, and a statement to `STATEMENT_SHARE`.
        """

    def prepare_statements(self, connection: BaseDatabaseWrapper) -> None:  # noqa: B027  # not every driver can
        """Have the driver prepare each statement that a worker's session repeats, if it can."""

    def connect_options(self, *, seconds: float) -> Mapping[str, Any]:
        """Return the driver's options that limit how long it takes to connect."""
        return {}

    @abstractmethod
    def has_timed_out(self, error: BaseException) -> bool:
        """Tell whether a lock was not free in time, or a statement took too long: the same may succeed later."""

    def is_pooled(self, connection: BaseDatabaseWrapper) -> bool:
        """Tell whether a connection goes through a pooler, where each transaction may have another session."""
        return False

    def transaction_mark(self, cursor: Any) -> int:
        """Return what `is_settled` needs of this moment: all transactions that have written by now began before it."""
        return 0

    def is_settled(self, cursor: Any, mark: int, *, after: int, to: int, limit: int) -> bool:
        """Tell whether all transactions from before the mark have ended that have written journal rows of these keys.

        Of the keys above ``after``, up to ``to``; it is enough to look at the first ``limit``.
        """
        return True

    @abstractmethod
    def insert_ignoring_duplicates(self, rest: str) -> str:
        """Return an INSERT INTO that skips rows whose key exists."""

    def due_lanes(self, cursor: Any, wanted: Wanted) -> list[Lane]:
        """Return the lanes that are wanted and have due jobs; paused queues have none. Some may be empty."""
        cursor.execute(*self.lanes.scan(wanted))
        return [Lane(*row) for row in cursor.fetchall()]

    def queued_destinations(self, cursor: Any) -> list[tuple[str, str]]:
        """Return the executors and queues that queued jobs name, due or not: a probe for each, and none for a job."""
        cursor.execute(self.lanes.all_queues(), [])
        return [(executor, queue) for executor, queue in cursor.fetchall()]

    def queued_lanes(self, cursor: Any) -> list[Lane]:
        """Return the lanes of queued jobs, due or not. Some may be empty."""
        cursor.execute(self.lanes.all_lanes(), [])
        return [Lane(*row) for row in cursor.fetchall()]

    def priorities(self, cursor: Any, places: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
        """Return these executors and queues with each priority of their queued jobs that have no schedule."""
        found = list[tuple[str, str, int]]()
        for batch in batches(places, LANES):
            cursor.execute(self.lanes.priorities(len(batch)), [name for place in batch for name in place])
            found += cursor.fetchall()
        return found

    def is_due(self, cursor: Any, wanted: Wanted) -> bool:
        """Tell whether a job is due, locked or not."""
        return bool(self.due_lanes(cursor, wanted) if wanted.only is None else self.only(cursor, wanted))

    # Retries, for a condition on their time.
    retrying: ClassVar[str] = "container_manager_containerjob WHERE status = 'retrying'"

    def any_due(self, wanted: Wanted) -> tuple[str, list[Any]]:
        """Return the condition that some job that is wanted is due, and its parameters."""
        scan, params = self.lanes.scan(wanted)
        return f"EXISTS ({scan})", params

    @abstractmethod
    def first_jobs(self, cursor: Any, lanes: Sequence[Lane], reach: int) -> list[Any]:
        """Return the keys of the first due jobs of lanes, locked or not, in the order of claims."""

    def only(self, cursor: Any, wanted: Wanted) -> list[Any]:
        """Return the key of the one job that is wanted, if it is due."""
        where, params = only_sql(wanted, self.now)
        key = ContainerJob._meta.pk.get_db_prep_value(wanted.only, cursor.db)
        cursor.execute(f"SELECT j.id FROM {where}", [key, *params])
        return [row[0] for row in cursor.fetchall()]

    @abstractmethod
    def claim(
        self,
        connection: BaseDatabaseWrapper,
        worker: str,
        wanted: Wanted,
        lanes: Sequence[Lane],
        *,
        limit: int,
        reach: int,
        engines: Mapping[str, str],
    ) -> tuple[list[Sequence[Any]], int]:
        """Claim up to ``limit`` of the first ``reach`` due jobs of lanes, but those that others have locked.

        If just one job is wanted, the lanes do not matter. ``engines``: by executor, the identity of the engine that
        will have their attempts; "" for the others. Return the jobs' columns and the seconds since their launch; and
        how many due jobs were seen, at most ``reach``.
        """

    @staticmethod
    def engine_column(engines: Mapping[str, str]) -> tuple[str, list[str]]:
        """Return the SQL of the engine that has an executor's attempts, and its parameters."""
        if not engines:
            return "''", []
        whens = " ".join(["WHEN %s THEN %s"] * len(engines))
        return f"CASE executor {whens} ELSE '' END", [text for pair in engines.items() for text in pair]

    def is_lock_timeout(self, error: BaseException) -> bool:
        """Tell whether a statement has waited too long for a row that another transaction has locked."""
        return False

    def is_refusal(self, error: BaseException) -> bool:
        """Tell whether an error is about a value or a row of a batch, and not about the database or its tables.

        What Python makes of a value before the database sees it counts too.
        """
        return isinstance(error, (IntegrityError, DataError)) or not isinstance(error, Error)

    @abstractmethod
    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], *, skip_locked: bool
    ) -> tuple[set[uuid.UUID], Keys]:
        """Store outcomes; return the jobs moved and the attempts closed.

        ``skip_locked``: leave those of which another transaction has locked the job or the attempt. To look for them
        takes a tenth of the time, so it is done only after a lock timeout.
        Needs a transaction, unless ``finishes_in_one_statement`` and none is to be retried.
        """

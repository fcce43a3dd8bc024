"""The base of the store's SQL: what the databases share, and what each must define.

PostgreSQL claims and finishes a batch in one statement each; the others in one short transaction. What a transition
writes comes from the state machine (`ContainerJob.transition_effects`); the store adds only what a worker knows.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob, JobStatus
from ...statemachine.assignments import assignments, column_sql
from ...statemachine.triggers.dialect import Dialect
from ..values import Outcome
from .lanes import Lane, LaneSQL, Wanted, only_sql

ATTEMPT_COLUMNS = "job_id, number, worker, executor, handle, launched_at, reason, message"
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

    def retry_columns(self, *, due: str, row: str = "") -> str:
        """Return the SET list of a retry; its parameters are those of ``due`` and the actor."""
        changes = assignments(ContainerJob, JobStatus.RETRYING, self.dialect, now=self.now, row=row)
        reason = f"{row}failure_reason"
        return self._set_list(changes, scheduled_for=due, status_changed_by="%s", status_changed_reason=reason)

    def _set_list(self, changes: Mapping[str, str], **known: str) -> str:
        """Return a SET list: what the state machine says, then what the store knows, in its order."""
        merged = {name: sql for name, sql in changes.items() if name not in known} | known
        return ", ".join(f"{column_sql(ContainerJob, name, self.dialect)} = {sql}" for name, sql in merged.items())

    @abstractmethod
    def after(self, seconds: str) -> str:
        """Return SQL for a time that many seconds from now."""

    @abstractmethod
    def seconds_since(self, moment: str) -> str:
        """Return SQL for the seconds since a time."""

    def session_settings(self, connection: BaseDatabaseWrapper, *, idle_seconds: float) -> Sequence[str]:
        """Return the statements that set up a worker's session; where possible, they limit idle transactions."""
        return ()

    @abstractmethod
    def insert_ignoring_duplicates(self, rest: str) -> str:
        """Return an INSERT INTO that skips rows whose key exists."""

    def due_lanes(self, cursor: Any, wanted: Wanted) -> list[Lane]:
        """Return the lanes that are wanted and have due jobs; paused queues have none. Some may be empty."""
        cursor.execute(*self.lanes.scan(wanted))
        return [Lane(*row) for row in cursor.fetchall()]

    def queued_executors(self, cursor: Any) -> list[str]:
        """Return the executors of all queued jobs, due or not."""
        found = set[str]()
        for scheduled in (False, True):
            last: tuple[str, ...] | None = ()
            while last is not None:
                where = "j.executor < %s" if last else "j.executor IS NOT NULL"
                cursor.execute(
                    self.lanes.probe("j.executor", where=where, order="j.executor DESC", scheduled=scheduled), last
                )
                if last := cursor.fetchone():
                    found.add(last[0])
        return sorted(found)

    def is_due(self, cursor: Any, wanted: Wanted) -> bool:
        """Tell whether a job is due, locked or not."""
        return bool(self.due_lanes(cursor, wanted) if wanted.only is None else self.only(cursor, wanted))

    # Retries, for a condition on their time.
    retrying: ClassVar[str] = "container_manager_containerjob WHERE status = 'retrying'"

    def any_due(self, wanted: Wanted) -> tuple[str, list[Any]]:
        """Return the condition that some job that is wanted is due, and its parameters."""
        scan, params = self.lanes.scan(wanted)
        return f"EXISTS ({scan})", params

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
    ) -> tuple[list[Sequence[Any]], int]:
        """Claim up to ``limit`` of the first ``reach`` due jobs of lanes, but those that others have locked.

        If just one job is wanted, the lanes do not matter. Return the jobs' columns and the seconds since their launch;
        and how many due jobs were seen, at most ``reach``.
        """

    @abstractmethod
    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome]
    ) -> tuple[set[uuid.UUID], Keys]:
        """Store outcomes; return the jobs moved and the attempts closed.

        Needs a transaction, unless ``finishes_in_one_statement`` and none is to be retried.
        """

    def unserved_executors(self, cursor: Any, executors: Sequence[str]) -> list[str]:
        """Return these executors, and those with open attempts that no live worker serves."""
        cursor.execute(f"SELECT executors FROM container_manager_worker WHERE lease_expires_at >= {self.now}", [])
        served = {alias for (aliases,) in cursor.fetchall() for alias in json.loads(aliases)}
        cursor.execute("SELECT DISTINCT executor FROM container_manager_jobattempt WHERE finished_at IS NULL")
        return [*executors, *({row[0] for row in cursor.fetchall()} - served - set(executors))]

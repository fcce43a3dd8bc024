"""The store's SQL, one object per database.

PostgreSQL claims and finishes a batch in one statement each; the others in one short transaction.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob
from ..values import Outcome

CLAIM = """
    status = 'running', worker = %s, attempt = {job}attempt + 1, launched_at = {now}, exit_code = NULL,
    failure_reason = '', last_error = '', status_version = {version}, status_changed_at = {now},
    status_changed_by = %s, status_changed_reason = ''"""
ATTEMPT_COLUMNS = "job_id, number, worker, executor, handle, launched_at, reason, message"
Keys = set[tuple[uuid.UUID, int]]


class StoreSQL(ABC):
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

"""Claim and finish on databases that take several statements for a batch."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob
from ...statemachine.assignments import assignments
from ..values import JOB_COLUMNS, Outcome
from .statements import ATTEMPT_COLUMNS, Keys, StoreSQL


class RowByRowStore(StoreSQL):
    """Claims by SELECT and UPDATE and finishes row by row, in one transaction each."""

    def claim(
        self,
        connection: BaseDatabaseWrapper,
        worker: str,
        candidates: tuple[str, list[Any]],
        engines: Mapping[str, str],
    ) -> Sequence[Sequence[Any]]:
        select, params = candidates
        engine, names = self.engine_column(engines)
        with transaction.atomic(using=connection.alias, savepoint=False), connection.cursor() as cursor:
            cursor.execute(select + self.lock, params)
            keys = [row[0] for row in cursor.fetchall()]
            if not keys:
                return []
            marks = ", ".join(["%s"] * len(keys))
            cursor.execute(
                f"UPDATE container_manager_containerjob {self.by_primary} SET {self._claim_columns} "
                f"WHERE id IN ({marks}) AND {self.by_key.format('status')} = 'queued'",
                [worker, worker, *keys],
            )
            mine = f"FROM container_manager_containerjob WHERE id IN ({marks}) AND status = 'running' AND worker = %s"
            cursor.execute(
                f"INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS}) "
                f"SELECT id, attempt, worker, executor, {engine}, '', launched_at, '', '' {mine}",
                [*names, *keys, worker],
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
        with connection.cursor() as cursor:
            for o in outcomes:
                key = key_field.get_db_prep_value(o.job_id, connection)
                if o.status is not None and self._finish_job(cursor, worker, key, o):
                    done.add(o.job_id)
                cursor.execute(
                    self._close_sql,
                    [
                        *(o.exit_code, o.signal, o.reason, o.message, o.peak_memory_bytes, o.cpu_seconds),
                        *(key, o.attempt, worker, key, o.attempt),
                    ],
                )
                if cursor.rowcount:
                    closed.add((o.job_id, o.attempt))
        return done, closed

    def _finish_job(self, cursor: Any, worker: str, key: Any, o: Outcome) -> bool:
        cursor.execute(
            self._finish_sql(o.status),
            [o.exit_code, o.reason, o.message, worker, o.reason, key, worker, o.attempt],
        )
        if not cursor.rowcount:
            return False
        if o.retry_after_seconds is not None:
            cursor.execute(self._retry_sql, [int(o.counts_as_retry), o.retry_after_seconds, worker, key])
        return True

    @cached_property
    def _claim_columns(self) -> str:
        return self.claim_columns()

    @cache  # noqa: B019  # there is one object per database
    def _finish_sql(self, status: str) -> str:
        changes = assignments(ContainerJob, status, self.dialect, now=self.now)
        return f"""
UPDATE container_manager_containerjob SET {self.finish_columns(changes)}
WHERE id = %s AND {self.by_key.format("status")} = 'running' AND worker = %s AND attempt = %s
"""

    @cached_property
    def _retry_sql(self) -> str:
        return f"""
UPDATE container_manager_containerjob SET {self.retry_columns(due=self.after("%s"))}
WHERE id = %s AND {self.by_key.format("status")} = 'failed'
"""

    @cached_property
    def _close_sql(self) -> str:
        # MariaDB reserves the word SIGNAL.
        return f"""
UPDATE container_manager_jobattempt SET finished_at = {self.now}, exit_code = %s, {self.dialect.quote("signal")} = %s,
    reason = %s, message = %s, peak_memory_bytes = %s, cpu_seconds = %s
WHERE job_id = %s AND number = %s AND {self.by_key.format("worker")} = %s AND finished_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM container_manager_containerjob j WHERE j.id = %s AND j.status = 'running' AND j.attempt = %s)
"""

"""What databases share that cannot claim or finish a batch in one statement."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ...models import ContainerJob
from ..values import JOB_COLUMNS, Outcome
from .statements import ATTEMPT_COLUMNS, CLAIM, Keys, StoreSQL


class RowByRowStore(StoreSQL):
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
            change = CLAIM.format(job="", now=self.now, version=self.version)
            cursor.execute(
                f"UPDATE container_manager_containerjob {self.by_primary} SET {change} "
                f"WHERE id IN ({marks}) AND {self.by_key.format('status')} = 'queued'",
                [worker, worker, *keys],
            )
            mine = f"FROM container_manager_containerjob WHERE id IN ({marks}) AND status = 'running' AND worker = %s"
            cursor.execute(
                f"INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS}) "
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

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
from ..values import JOB_COLUMNS, Outcome, job_id
from .lanes import LANES, ORDER, Lane, Wanted, batches, due_sql
from .statements import ATTEMPT_COLUMNS, Keys, StoreSQL


class RowByRowStore(StoreSQL):
    """Claims by SELECT and UPDATE and finishes row by row, in one transaction each."""

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
        with connection.cursor() as cursor:
            # Outside the transaction: nothing is locked while nothing is due.
            found = self.only(cursor, wanted) if wanted.only is not None else self.first_jobs(cursor, lanes, reach)
            if not found:
                return [], 0
            with transaction.atomic(using=connection.alias, savepoint=False):
                keys = self.lock_jobs(cursor, [key for key in found if job_id(key) not in wanted.besides], limit)
                return (self._claim(cursor, worker, keys, engines) if keys else []), len(found)

    def first_jobs(self, cursor: Any, lanes: Sequence[Lane], reach: int) -> list[Any]:
        if len(lanes) > reach:
            # Of more lanes than jobs are wanted only those are read whose first jobs are the first of all.
            lanes = [lanes[number] for *_, number in sorted(self._jobs(cursor, lanes, 1))[:reach]]
        return [key for _, _, key, _ in sorted(self._jobs(cursor, lanes, reach))[:reach]]

    def _jobs(self, cursor: Any, lanes: Sequence[Lane], limit: int) -> list[tuple[int, Any, Any, int]]:
        """Return the first jobs of each lane: what sorts them, with their key, and the number of their lane."""
        jobs: list[tuple[int, Any, Any, int]] = []
        for batch in batches(list(enumerate(lanes)), LANES):
            texts, params = [], []
            for number, lane in batch:
                text = self.lanes.jobs("-j.priority, j.queued_at, j.id", scheduled=lane.priority is not None)
                texts.append(f"SELECT lane{number}.*, {number} FROM ({text}) AS lane{number}")
                params += [lane.queue, *(value for value in lane if value is not None), limit]
            cursor.execute(" UNION ALL ".join(texts), params)
            jobs += cursor.fetchall()
        return jobs

    def lock_jobs(self, cursor: Any, found: Sequence[Any], limit: int) -> Sequence[Any]:
        """Return the first ``limit`` of the jobs that are still due and not locked by others; they are locked now."""
        keys: list[Any] = []
        while len(keys) < limit and found:
            batch, found = found[: limit - len(keys)], found[limit - len(keys) :]
            cursor.execute(
                f"SELECT id FROM container_manager_containerjob {self.by_primary} "
                f"WHERE id IN ({', '.join(['%s'] * len(batch))}) AND {self.by_key.format('status')} = 'queued' "
                f"AND ({due_sql(self.now)}){self.lock}",
                batch,
            )
            keys += [row[0] for row in cursor.fetchall()]
        return keys

    def _claim(self, cursor: Any, worker: str, keys: Sequence[Any], engines: Mapping[str, str]) -> list[Sequence[Any]]:
        marks = ", ".join(["%s"] * len(keys))
        engine, names = self.engine_column(engines)
        cursor.execute(
            f"UPDATE container_manager_containerjob {self.by_primary} SET {self._claim_columns} "
            f"WHERE id IN ({marks}) AND {self.by_key.format('status')} = 'queued'",
            [worker, worker, *keys],
        )
        mine = (
            f"FROM container_manager_containerjob {self.by_primary} "
            f"WHERE id IN ({marks}) AND {self.by_key.format('status')} = 'running' AND worker = %s"
        )
        cursor.execute(
            f"INSERT INTO container_manager_jobattempt ({ATTEMPT_COLUMNS}) "
            f"SELECT id, attempt, worker, executor, {engine}, '', launched_at, '', '' {mine}",
            [*names, *keys, worker],
        )
        cursor.execute(f"SELECT {', '.join(JOB_COLUMNS)}, 0 {mine} ORDER BY {ORDER}", [*keys, worker])
        return list(cursor.fetchall())

    def finish(
        self, connection: BaseDatabaseWrapper, worker: str, outcomes: Sequence[Outcome], *, skip_locked: bool
    ) -> tuple[set[uuid.UUID], Keys]:
        done: set[uuid.UUID] = set()
        closed: Keys = set()
        key_field = ContainerJob._meta.pk
        with connection.cursor() as cursor:
            if skip_locked:
                free = self._free(cursor, [key_field.get_db_prep_value(o.job_id, connection) for o in outcomes])
                outcomes = [o for o in outcomes if (o.job_id, o.attempt) in free]
            for o in outcomes:
                key = key_field.get_db_prep_value(o.job_id, connection)
                if o.status is not None and self._finish_job(cursor, worker, key, o):
                    done.add(o.job_id)
                cursor.execute(
                    self._close_sql,
                    [
                        *(o.exit_code, o.signal, o.reason, o.message, o.peak_memory_bytes, o.cpu_seconds, o.result),
                        *(key, o.attempt, worker, key, o.attempt),
                    ],
                )
                if cursor.rowcount:
                    closed.add((o.job_id, o.attempt))
        return done, closed

    def _free(self, cursor: Any, jobs: Sequence[Any]) -> Keys:
        """Lock these jobs with their attempts; return those of which another transaction has locked neither."""
        cursor.execute(
            "SELECT a.job_id, a.number FROM container_manager_jobattempt a JOIN container_manager_containerjob j "
            f"{self.by_primary} ON j.id = a.job_id WHERE a.job_id IN ({', '.join(['%s'] * len(jobs))}) "
            f"ORDER BY a.job_id, a.number{self.lock}",
            jobs,
        )
        return {(key if isinstance(key, uuid.UUID) else uuid.UUID(key), number) for key, number in cursor.fetchall()}

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
    reason = %s, message = %s, peak_memory_bytes = %s, cpu_seconds = %s, result = %s
WHERE job_id = %s AND number = %s AND {self.by_key.format("worker")} = %s AND finished_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM container_manager_containerjob j WHERE j.id = %s AND j.status = 'running' AND j.attempt = %s)
"""

"""Ours: the real worker with its whole guarantee, on an executor that runs nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ClassVar

import psycopg

from container_manager.conf import AppSettings
from container_manager.executors.base import (
    Capabilities,
    Executor,
    ExitStatus,
    Health,
    LaunchSpec,
    LogPage,
    Observation,
    Observations,
    Phase,
)

from .base import Contender

_JOB = "container_manager_containerjob"
# Copies of one job, with ids in the order of time, as UUIDv7 has them.
_COPY = f"""
INSERT INTO {_JOB} ({{columns}}) SELECT (lpad(to_hex(1700000000000 + i / 8), 12, '0') || '7' || lpad(to_hex(i %% 8), 3, '0')
    || '8' || left(md5(i::text), 15))::uuid, {{rest}} FROM {_JOB}, generate_series(1, %s) i
"""
_UNFINISHED = f"""
SELECT count(*) FROM {_JOB} j WHERE status <> 'completed'
    OR (SELECT count(*) FROM container_manager_jobtransition t WHERE t.job_id = j.id) <> 2
    OR (SELECT count(*) FROM container_manager_jobattempt a WHERE a.job_id = j.id AND a.finished_at IS NOT NULL) <> 1
"""


class NoopExecutor(Executor):
    """Every attempt has exited well as soon as it is submitted, and has printed nothing."""

    capabilities: ClassVar[Capabilities] = Capabilities(survives_worker=True, isolates=False, launch_threads=0)

    def __init__(self) -> None:
        self._exited: dict[str, Observation] = {}
        self._closed = threading.Event()

    def submit(self, spec: LaunchSpec) -> str:
        self._exited[spec.key] = Observation(key=spec.key, handle=spec.key, phase=Phase.EXITED, exit=ExitStatus(code=0))
        return spec.key

    def observe(self) -> Observations:
        return Observations(attempts=list(self._exited.values()), as_of=time.monotonic())

    def watch(self, timeout: float) -> bool:
        self._closed.wait(timeout)
        return False

    def logs(self, handle: str, cursor: str, limit: int) -> LogPage:
        return LogPage(chunks=(), cursor=cursor, complete=True)

    def stop(self, handle: str, grace_seconds: float) -> None:
        """Nothing runs."""

    def remove(self, handle: str, *, failed: bool = False) -> None:
        self._exited.pop(handle, None)

    def check(self) -> Health:
        return Health(ok=True, message="Runs nothing.")

    def close(self) -> None:
        self._closed.set()


class Ours(Contender):
    """The worker with this many slots."""

    def __init__(self, slots: int, per_second: int) -> None:
        self.name = f"ours, {slots} slot" + "s" * (slots > 1)
        self.slots, self.per_second = slots, per_second

    def prepare(self, folder: str) -> None:
        from django.core.management import call_command

        call_command("migrate", "container_manager", verbosity=0)

    def fill(self, connection: psycopg.Connection, count: int) -> None:
        from container_manager.models import ContainerJob
        from container_manager.queue import enqueue

        connection.execute("TRUNCATE container_manager_worker")
        connection.execute(
            f"TRUNCATE {_JOB}, container_manager_jobtransition, container_manager_jobattempt, container_manager_joblog"
        )
        enqueue(command="true")
        columns = [f'"{field.column}"' for field in ContainerJob._meta.concrete_fields]
        connection.execute(_COPY.format(columns=", ".join(columns), rest=", ".join(columns[1:])), [count - 1])
        connection.execute(f"VACUUM ANALYZE {_JOB}")

    def unfinished(self, connection: psycopg.Connection) -> int:
        """Count the jobs that are not completed, or lack a part of the guarantee: two journal rows, a closed attempt."""
        return connection.execute(_UNFINISHED).fetchone()[0]

    def work(self, folder: str, ready: Callable[[], None]) -> None:
        from django.db import connection

        from container_manager.worker import WorkerLoop, WorkerOptions

        loop = WorkerLoop(
            settings=AppSettings(),
            executors={"default": NoopExecutor()},
            options=WorkerOptions(slots=self.slots, drain=True),
        )
        connection.ensure_connection()
        ready()
        loop.run()


CONTENDERS = [Ours(100, 14000), Ours(1, 900)]

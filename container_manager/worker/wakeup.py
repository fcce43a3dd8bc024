"""Wake a waiting worker: by NOTIFY on PostgreSQL. A hint only; the worker polls all the same."""

from __future__ import annotations

import logging
import threading
from typing import Any

from django.db import DatabaseError, connections
from django.dispatch import receiver

from ..models import JobStatus
from ..signals import job_transitioned
from ..statemachine import Transition

CHANNEL = "container_manager"
_RECONNECT_SECONDS = 2.0
logger = logging.getLogger(__name__)


@receiver(job_transitioned)
def notify_workers(transitions: tuple[Transition, ...], using: str, **kwargs: Any) -> None:
    """Tell listening workers of jobs that became ready, or were cancelled."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    if any(t.target in (JobStatus.QUEUED, JobStatus.CANCELLED) for t in transitions):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


class Listener:
    """A thread with a connection of its own that sets an event when a notification comes."""

    def __init__(self, using: str, wake: threading.Event) -> None:
        self._using, self._wake = using, wake
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="container-manager-listener", daemon=True)

    def start(self) -> None:
        if connections[self._using].vendor == "postgresql":
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            connection = connections[self._using].copy()
            try:
                self._listen(connection)
            except DatabaseError as error:
                logger.warning("The listener lost its connection, polling goes on: %s", error)
                self._ended.wait(_RECONNECT_SECONDS)
            finally:
                connection.close()

    def _listen(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        # What came before LISTEN was in force.
        self._wake.set()
        with connection.wrap_database_errors:
            while not self._ended.is_set():
                for _ in connection.connection.notifies(timeout=0.5, stop_after=1):
                    self._wake.set()

"""Hear the hints that wake a waiting worker."""

from __future__ import annotations

import logging
import threading
from typing import Any

from django.db import DatabaseError, connections

from ..queue.wakeup import CHANNEL

_RECONNECT_SECONDS = 2.0
logger = logging.getLogger(__name__)


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

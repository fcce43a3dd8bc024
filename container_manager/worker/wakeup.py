"""Hear the hints that wake a waiting worker."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, connections

from ..queue.wakeup import CANCELLED, CHANNEL, READY

_RECONNECT_SECONDS = 2.0
logger = logging.getLogger(__name__)


class Listener:
    """A thread with a connection of its own that passes on the hints that come, and both once it begins to listen."""

    def __init__(self, using: str, hint: Callable[[str], None]) -> None:
        self._using, self._hint = using, hint
        self._ended = threading.Event()
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="container-manager-listener", daemon=True)

    def start(self) -> None:
        if connections[self._using].vendor == "postgresql":
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._stop_writer.close()
        if self._thread.is_alive():
            self._thread.join()
        self._stop_reader.close()

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
        for hint in (READY, CANCELLED):
            self._hint(hint)
        with connection.wrap_database_errors:
            while not self._ended.is_set():
                select.select([connection.connection, self._stop_reader], [], [])
                for hint in {notice.payload for notice in connection.connection.notifies(timeout=0)}:
                    self._hint(hint)

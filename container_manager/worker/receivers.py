"""Send `job_transitioned` to its receivers in a thread of its own, where a slow one holds up nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

from django.db import close_old_connections, connections

from ..jobs.package_log import package_logger
from ..store.notifications import others_listen

# How many statements' transitions may wait for slow receivers: bounds the worker's memory.
_MOST_WAITING = 10_000
# How long a worker that ends waits for its receivers.
_LAST_SECONDS = 10.0
logger = package_logger(__name__)


class Receivers:
    """Sends in order. The thread starts with the first transitions that a receiver of the project's own waits for.

    Each statement's transitions are handled like a request: old connections are closed before and after.
    """

    def __init__(self) -> None:
        # None: nothing will follow.
        self._waiting: Queue[Callable[[], object] | None] = Queue(_MOST_WAITING + 1)
        self._thread: threading.Thread | None = None
        self._is_sending = False
        self._unsent = 0

    def send(self, send: Callable[[], object]) -> None:
        """Have a function called that sends; in this thread if it only wakes workers, which takes no time."""
        if not others_listen():
            send()
            return
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put(send)
        else:
            if not self._unsent:
                logger.error(
                    "Receivers of job_transitioned are too slow: %s statements wait for them, so that what comes now "
                    "is not sent. The journal has it all.",
                    _MOST_WAITING,
                )
            self._unsent += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="container-manager-receivers", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait a while until everything is sent; say what is not."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(_LAST_SECONDS)
        waiting = self._waiting.qsize() - 1 + self._is_sending if self._thread.is_alive() else 0
        if left := self._unsent + waiting:
            logger.error("The transitions of %s statements did not reach all receivers of job_transitioned", left)

    def _run(self) -> None:
        try:
            while (send := self._waiting.get()) is not None:
                self._is_sending = True
                close_old_connections()
                send()
                close_old_connections()
                self._is_sending = False
        finally:
            connections.close_all()

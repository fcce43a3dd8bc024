"""Send `job_transitioned` to its receivers in a thread of its own, where a slow one holds up nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, Full, Queue

from django.db import close_old_connections, connections

from ..store.notifications import others_listen

# How many statements' transitions may wait for slow receivers: bounds the worker's memory.
_MOST_WAITING = 10_000
# How long a worker that ends waits for its receivers.
_LAST_SECONDS = 10.0
logger = logging.getLogger(__name__)


class Receivers:
    """Sends in order. The thread starts with the first transitions that a receiver of the project's own waits for.

    Each statement's transitions are handled like a request: old connections are closed before and after.
    """

    def __init__(self) -> None:
        self._waiting: Queue[Callable[[], object]] = Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._is_sending = self._ended = False
        self._unsent = 0

    def send(self, send: Callable[[], object]) -> None:
        """Have a function called that sends; in this thread if it only wakes workers, which takes no time."""
        if not others_listen():
            send()
            return
        try:
            self._waiting.put_nowait(send)
        except Full:
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
        self._ended = True
        if self._thread is not None:
            until = time.monotonic() + _LAST_SECONDS
            self._waiting_is_over()
            self._thread.join(max(0.0, until - time.monotonic()))
        left = self._unsent + self._waiting.qsize() + self._is_sending
        if left:
            logger.error("The transitions of %s statements did not reach all receivers of job_transitioned", left)

    def _waiting_is_over(self) -> None:
        try:
            self._waiting.put_nowait(lambda: None)
        except Full:
            # Then the thread does not wait.
            return

    def _run(self) -> None:
        while not (self._ended and self._waiting.empty()):
            try:
                send = self._waiting.get(timeout=_LAST_SECONDS)
            except Empty:
                continue
            self._is_sending = True
            close_old_connections()
            try:
                send()
            finally:
                self._is_sending = False
                close_old_connections()
        connections.close_all()

"""End a connection whose server is silent, from another thread: a driver would wait for its answer for ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper


def shut_down(connection: BaseDatabaseWrapper) -> bool:
    """Shut the socket of a connection down, so that what waits for it fails; return False if there is none."""
    try:
        with socket.socket(fileno=os.dup(connection.connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
    except Exception:
        # It is closed already, for which each driver has its own error, or has no socket, as SQLite.
        return False
    return True


@contextmanager
def answered_within(seconds: float, connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Shut a connection down if what is done here takes longer. For rare use: it starts a thread."""
    timer = threading.Timer(seconds, shut_down, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

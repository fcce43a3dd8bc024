"""End a connection whose server is silent, from another thread: a driver would wait for its answer for ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper


def socket_of(raw: Any) -> socket.socket | None:
    """Return a duplicate of the socket of a driver's connection; None if it has none, as SQLite.

    In the connection's own thread, before it waits: some drivers refuse this meanwhile. A duplicate, since the number
    of a closed descriptor is soon that of something else.
    """
    fileno = getattr(raw, "fileno", None)
    return None if fileno is None else socket.socket(fileno=os.dup(fileno()))


def shut_down(connected: socket.socket) -> None:
    """Let whatever waits for this socket fail."""
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def end_connection(connection: BaseDatabaseWrapper) -> bool:
    """Let whatever waits for a connection of another thread fail; return whether there was one that could be ended.

    Django asks for a new connection's settings before it gives it to anybody, so nobody holds its socket by then.
    """
    try:
        connected = socket_of(connection.connection)
    except Exception:  # whatever a driver raises that refuses this to other threads, or for a closed connection
        return False
    if connected is None:
        return False
    with connected:
        shut_down(connected)
    return True


@contextmanager
def answered_within(seconds: float, connection: BaseDatabaseWrapper) -> Iterator[None]:
    """End a connection if what is done here takes longer, connecting included. For rare use: it starts a thread."""
    timer = threading.Timer(seconds, end_connection, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

"""End a connection whose server is silent, from another thread: a driver would wait for its answer for ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


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


@contextmanager
def answered_within(seconds: float, raw: Any) -> Iterator[None]:
    """Shut a driver's connection down if what is done here takes longer. For rare use: it starts a thread."""
    connected = socket_of(raw)
    if connected is None:
        yield
        return
    timer = threading.Timer(seconds, shut_down, [connected])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        connected.close()

"""Ports of the loopback for servers that must be told theirs."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that the kernel gives to whoever asks for any: nobody gets one between the look and its use, and a client
# that waits for the server does not connect to itself, as one can whose own port is the one it asks for.
_FIRST, _COUNT = 10_000, 22_000
# Test processes that run at once have neighbouring pids, and each a stretch of its own.
_STRETCH = 64
_numbers = itertools.count(os.getpid() * _STRETCH)


def free_port() -> int:
    """Return a port that nobody listens on, and that this process has not returned before."""
    for number in _numbers:
        port = _FIRST + number % _COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError

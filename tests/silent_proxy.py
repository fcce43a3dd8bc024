"""A proxy in front of a database server whose connections can fall silent: they stay open, and nothing arrives."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.db import connection

_READ_BYTES = 65536
# PostgreSQL's clients are told a folder.
POSTGRESQL_NAME = ".s.PGSQL.5432"


class ProxiedConnection:
    """One client's connection. What is sent while it is silent arrives when it speaks again, even if it was given up."""

    def __init__(self, client: socket.socket, server: socket.socket, *, silent: bool) -> None:
        self._ends = (client, server)
        self._speaks = threading.Event()
        if not silent:
            self._speaks.set()
        self._lock, self._passing = threading.Lock(), 2
        for source, target in (self._ends, self._ends[::-1]):
            threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    @property
    def is_open(self) -> bool:
        return self._passing > 0

    def fall_silent(self) -> None:
        self._speaks.clear()

    def speak(self) -> None:
        self._speaks.set()

    def cut(self) -> None:
        """End it for both sides."""
        with self._lock:
            for end in self._ends if self._passing else ():
                _shut_down(end, socket.SHUT_RDWR)
        self.speak()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                self._speaks.wait()
                target.sendall(data)
        self._speaks.wait()
        with self._lock:
            self._passing -= 1
            _shut_down(target, socket.SHUT_WR)
            for end in () if self._passing else self._ends:
                end.close()


class SilentProxy:
    """Passes bytes between clients of the Unix socket ``listen`` and a server's.

    ``address``: what clients are told, for CM_TEST_SOCKET: for PostgreSQL the socket's folder.
    """

    def __init__(self, listen: Path, server: Path) -> None:
        self.address = str(listen.parent if listen.name == POSTGRESQL_NAME else listen)
        self._server = str(server)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(listen))
        self._listening.listen()
        # Guards the connections, and how new ones begin.
        self._lock = threading.Lock()
        self._connections: list[ProxiedConnection] = []
        self._silent_for_new = self._refuses_new = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> list[ProxiedConnection]:
        """The connections that neither side has ended."""
        return [each for each in self._connections if each.is_open]

    def fall_silent(self, *, for_new: bool = False) -> None:
        """Pass nothing any more on the connections there are, and with ``for_new`` on those to come."""
        with self._lock:
            self._silent_for_new = for_new
            for each in self.connections:
                each.fall_silent()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            self._refuses_new = True
            for each in self.connections:
                each.cut()

    def answer_new(self) -> None:
        self._silent_for_new = self._refuses_new = False

    def speak(self) -> None:
        """Pass everything again, and what was held back."""
        with self._lock:
            self.answer_new()
            for each in self.connections:
                each.speak()

    def close(self) -> None:
        _shut_down(self._listening, socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for each in self._connections:
                each.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with self._lock:
                    self._pass_on(client)

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        try:
            if self._refuses_new:
                raise ConnectionRefusedError
            server.connect(self._server)
        except OSError:
            server.close()
            client.close()
            return
        open_ones = self.connections
        self._connections = [*open_ones, ProxiedConnection(client, server, silent=self._silent_for_new)]


def _shut_down(end: socket.socket, how: int) -> None:
    # It may have ended by itself.
    with suppress(OSError):
        end.shutdown(how)


@contextmanager
def silent_proxy(folder: Path) -> Iterator[SilentProxy]:
    """Put a proxy in front of the tests' database server."""
    server = Path(os.environ["CM_TEST_SOCKET"])
    is_postgresql = connection.vendor == "postgresql"
    listen = folder / (POSTGRESQL_NAME if is_postgresql else "proxy.sock")
    proxy = SilentProxy(listen, server / POSTGRESQL_NAME if is_postgresql else server)
    try:
        yield proxy
    finally:
        proxy.close()

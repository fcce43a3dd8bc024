"""A proxy in front of the tests' database server that can fall silent: it keeps connections open and passes nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection

_READ_BYTES = 65536
# PostgreSQL's clients are told a folder.
_POSTGRESQL_NAME = ".s.PGSQL.5432"


class SilentProxy:
    """Passes bytes between clients and the server. ``address`` is for CM_TEST_SOCKET."""

    def __init__(self, folder: Path) -> None:
        server = Path(os.environ["CM_TEST_SOCKET"])
        is_postgresql = connection.vendor == "postgresql"
        self._server = str(server / _POSTGRESQL_NAME if is_postgresql else server)
        own = folder / (_POSTGRESQL_NAME if is_postgresql else "proxy.sock")
        self.address = str(folder if is_postgresql else own)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(own))
        self._listening.listen()
        # Set on each connection that is to be silent.
        self._silences: list[threading.Event] = []
        self._answers_new = True
        self._sockets = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self, *, for_new: bool = False) -> None:
        """Pass nothing any more on the connections there are, and with ``for_new`` on those to come."""
        self._answers_new = not for_new
        for silence in self._silences:
            silence.set()

    def answer_new(self) -> None:
        self._answers_new = True

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._sockets.append(client)
                if not self._answers_new:
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._sockets.append(server)
                silence = threading.Event()
                self._silences.append(silence)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pass, args=(source, target, silence), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket, silence: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            if not silence.is_set():
                target.sendall(data)
        if not silence.is_set():
            target.shutdown(socket.SHUT_WR)


@contextmanager
def silent_proxy(folder: Path) -> Iterator[SilentProxy]:
    proxy = SilentProxy(folder)
    try:
        yield proxy
    finally:
        proxy.close()

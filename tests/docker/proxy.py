"""A proxy before the daemon that can be held at a given request or its answer, so that a test can kill the worker then."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ..polling import PATIENCE_SECONDS

_READ_BYTES = 65536
Side = Literal["request", "answer"]


class Proxy:
    """Passes on what comes to its own socket, at ``url``, and what is answered, bytes as they are.

    `hold` arms it: the first request whose first line matches stays here, or is passed on and its answer stays here.
    What is held when `close` cuts all connections never arrives.
    """

    def __init__(self, daemon_url: str, folder: Path) -> None:
        self._daemon_path = daemon_url.removeprefix("unix://")
        path = folder / "proxy.sock"
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._pattern: re.Pattern[str] | None = None
        self._side: Side = "request"
        self._held, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def hold(self, pattern: str, side: Side) -> None:
        """Hold up one request, such as ``POST /[^ ]*/start``, or its answer."""
        with self._lock:
            self._held.clear()
            self._go_on.clear()
            self._pattern, self._side = re.compile(pattern), side

    def await_held(self) -> None:
        """Return once that request, or its answer, is here."""
        assert self._held.wait(PATIENCE_SECONDS), "No such request came."

    def release(self) -> None:
        """Pass on what is held."""
        self._go_on.set()

    def cut(self) -> None:
        """Break all connections, as a daemon that dies does."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def lead_to(self, daemon_url: str) -> None:
        """Lead to another daemon from now on."""
        self._daemon_path = daemon_url.removeprefix("unix://")
        self.cut()

    def answer(self, data: bytes) -> bytes:
        """Return what is passed on of an answer's piece."""
        return data

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()
        self._go_on.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            try:
                daemon.connect(self._daemon_path)
            except OSError:
                client.close()
                daemon.close()
                continue
            with self._lock:
                self._ends += [client, daemon]
            # Whether the answer that comes next is the one to hold.
            holds = threading.Event()
            for source, target, is_request in ((client, daemon, True), (daemon, client, False)):
                threading.Thread(target=self._pass_on, args=(source, target, holds, is_request), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, holds: threading.Event, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                if is_request:
                    self._look_at(data, holds)
                elif holds.is_set():
                    holds.clear()
                    self._stay()
                target.sendall(data if is_request else self.answer(data))
        # Each way ends for itself: the daemon may still answer a client that has said all.
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        if not is_request:
            source.close()
            target.close()

    def _look_at(self, data: bytes, holds: threading.Event) -> None:
        # The SDK waits for an answer before it asks again, so a request begins a piece.
        line = data.split(b"\r\n", 1)[0].decode("latin-1")
        with self._lock:
            if self._pattern is None or not self._pattern.match(line):
                return
            self._pattern = None
            if self._side == "answer":
                holds.set()
                return
        self._stay()

    def _stay(self) -> None:
        self._held.set()
        self._go_on.wait()
        with self._lock:
            if not self._ends:
                raise ConnectionAbortedError


@contextmanager
def proxy(daemon_url: str, folder: Path) -> Iterator[Proxy]:
    running = Proxy(daemon_url, folder)
    try:
        yield running
    finally:
        running.close()

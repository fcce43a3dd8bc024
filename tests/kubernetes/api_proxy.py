"""A proxy before the API server: a test holds a request or its answer, silences or cuts it, has it answer by itself."""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ..polling import PATIENCE_SECONDS

_READ_BYTES = 65536
_REQUEST_LINE = re.compile(rb"([A-Z]+ \S+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
Side = Literal["request", "answer"]


@dataclass(slots=True, kw_only=True)
class OwnAnswer:
    """What the proxy answers by itself to requests that match, so many ``times``; None: always."""

    pattern: re.Pattern[str]
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int | None = None

    def data(self) -> bytes:
        """Return the whole answer."""
        headers = {"Content-Type": "application/json", **self.headers, "Content-Length": str(len(self.body))}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def status_body(status: int, reason: str, message: str, **details: object) -> bytes:
    """Return an error as the API server puts it."""
    described = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason}
    return json.dumps({**described, "message": message, "details": details}).encode()


class _Connection:
    """One client's connection and the one to the API server that goes with it, in the hands of one thread."""

    def __init__(self, proxy: ApiProxy, client: socket.socket, server: ssl.SSLSocket, *, silent: bool) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._speaks, self.is_cut, self.is_open = threading.Event(), threading.Event(), True
        if not silent:
            self._speaks.set()
        # Whether the answer that comes next is the one to hold.
        self.holds_answer = False
        self._thread = threading.Thread(target=self._pass_all, daemon=True)
        self._thread.start()

    def fall_silent(self) -> None:
        self._speaks.clear()

    def speak(self) -> None:
        self._speaks.set()

    def cut(self) -> None:
        """End it for both sides. What is held here is lost."""
        self.is_cut.set()
        self._speaks.set()
        for end in (self._client, self._server):
            # They may have ended by themselves.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self._thread.join()

    def _pass_all(self) -> None:
        # One thread, since OpenSSL lets no two use one connection at once.
        with suppress(OSError):
            while self._pass_some():
                pass
        self.is_open = False
        self._client.close()
        self._server.close()

    def _pass_some(self) -> bool:
        """Pass on what there is next; return False where one side has ended."""
        ready = [self._server] if self._server.pending() else select.select([self._client, self._server], [], [])[0]
        for source in ready:
            is_request = source is self._client
            try:
                source.settimeout(0)
                data = source.recv(_READ_BYTES)
            except (ssl.SSLWantReadError, BlockingIOError):
                # Something of TLS itself.
                continue
            if not data:
                return False
            if is_request:
                if (own := self._proxy._own_answer(data)) is not None:
                    self._answer(data, own)
                    continue
                data = self._proxy._look_at(data, self)
            elif self.holds_answer:
                self.holds_answer = False
                self._proxy._stay(self)
            self._speaks.wait()
            if self.is_cut.is_set():
                return False
            target = self._server if is_request else self._client
            target.settimeout(PATIENCE_SECONDS)
            target.sendall(data)
        return True

    def _answer(self, data: bytes, own: OwnAnswer) -> None:
        """Read the rest of a request, and answer it here."""
        self._client.settimeout(PATIENCE_SECONDS)
        head, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        missing = 0 if length is None else int(length[1]) - len(body)
        while missing > 0 and (more := self._client.recv(_READ_BYTES)):
            missing -= len(more)
        self._client.sendall(own.data())


class ApiProxy:
    """Passes on what clients ask by HTTP at ``url`` to the API server, and its answers.

    ``kubeconfig`` is the path of a copy of the one it was made with, that leads here. `hold` arms it: the first request
    whose method and path match stays here, or is passed on and its answer stays here.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        described = json.loads(kubeconfig.read_text())
        cluster = described["clusters"][0]["cluster"]
        address = urlsplit(cluster["server"])
        self._server = (address.hostname, address.port)
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        # Else the client would be told of another protocol than it speaks.
        self._tls.set_alpn_protocols(["http/1.1"])
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        described["clusters"][0]["cluster"] = {"server": self.url}
        self.kubeconfig = folder / "proxied.kubeconfig"
        self.kubeconfig.write_text(json.dumps(described))
        # Each request's method and path, in the order in which they came.
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._silent_for_new = self._refuses_new = False
        self._pattern: re.Pattern[str] | None = None
        self._side: Side = "request"
        self._own: list[OwnAnswer] = []
        self._changes: list[tuple[re.Pattern[str], Callable[[bytes], bytes]]] = []
        self._held, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many connections there are that neither side has ended."""
        return sum(each.is_open for each in self._connections)

    def asked(self, pattern: str) -> list[str]:
        """Return the requests that match so far, such as ``POST .*/jobs``."""
        return [request for request in self.requests if re.match(pattern, request)]

    # One request

    def hold(self, pattern: str, side: Side) -> None:
        """Hold up one request, such as ``POST .*/jobs``, or its answer."""
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

    # What does not go through as it is

    def answer(self, pattern: str, status: int, body: bytes = b"", *, times: int | None = None, **headers: str) -> None:
        """Answer requests that match here; ``headers`` with underscores, such as ``Retry_After``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        own = OwnAnswer(pattern=re.compile(pattern), status=status, body=body, headers=named, times=times)
        with self._lock:
            self._own.append(own)

    def change(self, pattern: str, alter: Callable[[bytes], bytes]) -> None:
        """Pass on requests that match as ``alter`` returns them."""
        with self._lock:
            self._changes.append((re.compile(pattern), alter))

    def be_faithful(self) -> None:
        """Pass on everything as it is again."""
        with self._lock:
            self._own.clear()
            self._changes.clear()

    # All connections

    def cut(self, *, refuse_new: bool = False) -> None:
        """Break all connections; what is held never arrives. With ``refuse_new`` there is no server until `speak`."""
        with self._lock:
            self._refuses_new = refuse_new
            for each in self._connections:
                each.cut()
        self._go_on.set()

    def fall_silent(self, *, for_new: bool = False) -> None:
        """Pass nothing any more on the connections there are, and with ``for_new`` on those to come."""
        with self._lock:
            self._silent_for_new = for_new
            for each in self._connections:
                each.fall_silent()

    def speak(self) -> None:
        """Pass everything again, and what was held back."""
        with self._lock:
            self._silent_for_new = self._refuses_new = False
            for each in self._connections:
                each.speak()

    def close(self) -> None:
        """End everything."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        self.cut()
        for each in self._connections:
            each.join()

    # What the connections' threads use

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            # The API server may take its time for the handshake.
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            server = self._to_server()
        except OSError:
            client.close()
            return
        with self._lock:
            self._connections.append(_Connection(self, client, server, silent=self._silent_for_new))

    def _to_server(self) -> ssl.SSLSocket:
        if self._refuses_new:
            raise ConnectionRefusedError
        plain = socket.create_connection(self._server, timeout=PATIENCE_SECONDS)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(plain, server_hostname=self._server[0])
        except OSError:
            plain.close()
            raise

    def _own_answer(self, data: bytes) -> OwnAnswer | None:
        """Return what is answered here to a request; None: it is passed on."""
        line = _REQUEST_LINE.match(data)
        if line is None:
            return None
        request = line[1].decode("latin-1")
        with self._lock:
            own = next((each for each in self._own if each.times != 0 and each.pattern.match(request)), None)
            if own is not None:
                self.requests.append(request)
                own.times = None if own.times is None else own.times - 1
            return own

    def _look_at(self, data: bytes, connection: _Connection) -> bytes:
        """Return what is passed on of what a client has sent."""
        # A client waits for an answer before it asks again, so a request begins a piece.
        line = _REQUEST_LINE.match(data)
        if line is None:
            return data
        request = line[1].decode("latin-1")
        with self._lock:
            self.requests.append(request)
            for pattern, alter in self._changes:
                data = alter(data) if pattern.match(request) else data
            if self._pattern is None or not self._pattern.match(request):
                return data
            self._pattern = None
            if self._side == "answer":
                connection.holds_answer = True
                return data
        self._stay(connection)
        return data

    def _stay(self, connection: _Connection) -> None:
        self._held.set()
        self._go_on.wait()
        if connection.is_cut.is_set():
            raise ConnectionAbortedError


@contextmanager
def api_proxy(kubeconfig: Path, folder: Path) -> Iterator[ApiProxy]:
    """Put a proxy before the API server that a kubeconfig leads to."""
    running = ApiProxy(kubeconfig, folder)
    try:
        yield running
    finally:
        running.close()

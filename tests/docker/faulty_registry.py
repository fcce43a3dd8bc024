"""A registry that misbehaves on order: it answers with errors, says nothing, cuts its answers or sends other bytes.

Its images are the tests' own, with a layer each that no daemon has. Daemons need no option to trust the loopback.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from ..ports import free_port
from . import image

# What a pull asks for: whether this is a registry, then a manifest, the image's configuration, and its layers.
Part = Literal["ping", "manifest", "config", "layer"]

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How to misbehave. ``status`` 0: as if nothing were wrong.

    ``code``: a registry's own word for the error, in the body that its protocol asks for; ``body`` another one.
    ``share``: how much of the body is sent; then the connection is closed, or with ``stalls`` nothing more comes until
    the registry's end. ``broken``: other bytes than those that were promised. ``times``: how often; None: always.
    """

    status: int = 0
    code: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0
    stalls: bool = False
    broken: bool = False
    times: int | None = None


class OddRegistry:
    """Images by their names, and what is wrong with each. ``address`` is ``host:port``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._manifests: dict[str, tuple[str, bytes]] = {}
        # By digest, with the part that it is.
        self._blobs: dict[str, tuple[Part, bytes]] = {}
        self._faults: dict[tuple[str, Part], tuple[Fault, int]] = {}
        self._requests: list[tuple[str, Part]] = []
        self._came = threading.Condition(self._lock)
        self.login: tuple[str, str] | None = None
        registry = self

        class Handler(_Handler):
            odd = registry

        # Never one that the kernel gives again: what was pulled from here stays in the daemon, under this address.
        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="odd-registry", daemon=True)
        self._thread.start()

    def add(self, name: str, *, layer_bytes: int = 1000, architecture: str = "amd64", in_list: bool = False) -> str:
        """Make an image, whose last layer is its own; return its reference. ``in_list``: as one of a list by platform."""
        layers = [image.archive(), _own_layer(layer_bytes)]
        configuration = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["true"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
                "history": [{"created_by": uuid.uuid4().hex} for _ in layers],
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": self._store("config", configuration, _CONFIG),
                "layers": [self._store("layer", layer, _LAYER) for layer in layers],
            }
        ).encode()
        repository, _, tag = name.partition(":")
        with self._lock:
            self._manifests[f"{repository}@{_digest(manifest)}"] = (_MANIFEST, manifest)
            self._manifests[f"{repository}@{tag}"] = (_MANIFEST, manifest)
            if in_list:
                platform = {"architecture": architecture, "os": "linux"}
                entry = {"mediaType": _MANIFEST, "size": len(manifest), "digest": _digest(manifest)}
                text = {"schemaVersion": 2, "mediaType": _LIST, "manifests": [{**entry, "platform": platform}]}
                listing = json.dumps(text).encode()
                self._manifests[f"{repository}@{_digest(listing)}"] = (_LIST, listing)
                self._manifests[f"{repository}@{tag}"] = (_LIST, listing)
        return f"{self.address}/{name}"

    def fail(self, name: str, part: Part, fault: Fault) -> None:
        """Misbehave at this part of a repository; "" for what is asked of none (``ping``)."""
        with self._lock:
            self._faults[name.partition(":")[0], part] = (fault, 0)

    def recover(self) -> None:
        """Behave well from now on. What stalls goes on to stall."""
        with self._lock:
            self._faults.clear()

    def asked(self, name: str, part: Part) -> int:
        """Return how often a part of a repository was asked for."""
        with self._lock:
            return self._requests.count((name.partition(":")[0], part))

    def await_asked(self, name: str, part: Part, *, times: int = 1, seconds: float = 60) -> None:
        """Return once a part was asked for so often."""
        with self._came:
            request = (name.partition(":")[0], part)
            assert self._came.wait_for(lambda: self._requests.count(request) >= times, seconds), self._requests

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _store(self, part: Part, data: bytes, kind: str) -> dict[str, object]:
        with self._lock:
            self._blobs[_digest(data)] = (part, data)
        return {"mediaType": kind, "size": len(data), "digest": _digest(data)}

    def answer(self, handler: _Handler) -> None:
        """Answer a request (a thread of the server's)."""
        found = _PATH.fullmatch(handler.path)
        name = found["name"] if found else ""
        part, kind, body = self._content(found)
        fault = self._note(name, part)
        if self.login is not None and handler.headers.get("Authorization") != _basic(*self.login):
            fault = Fault(status=401, code="UNAUTHORIZED", headers={"WWW-Authenticate": 'Basic realm="tests"'})
        elif body is None and not fault.status:
            fault = Fault(status=404, code="MANIFEST_UNKNOWN" if part == "manifest" else "BLOB_UNKNOWN")
        content = body or b""
        if fault.status:
            error = json.dumps({"errors": [{"code": fault.code, "message": "on order"}]}).encode()
            kind, content = "application/json", fault.body or (error if fault.code else b"")
        headers = {"Content-Type": kind, "Docker-Distribution-Api-Version": "registry/2.0", **fault.headers}
        if part == "manifest" and not fault.status:
            headers["Docker-Content-Digest"] = _digest(content)
        if fault.stalls and not (fault.share and content):
            self._ended.wait()
            return
        handler.send_response(fault.status or 200)
        for header, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(header, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if fault.broken:
            content = bytes(255 - byte for byte in content)
        handler.wfile.write(content[: int(len(content) * fault.share)])
        handler.wfile.flush()
        if fault.stalls:
            self._ended.wait()
        if fault.stalls or fault.share < 1.0:
            handler.close_connection = True

    def _content(self, found: re.Match[str] | None) -> tuple[Part, str, bytes | None]:
        with self._lock:
            if found is None:
                return "ping", "application/json", b"{}"
            if found["kind"] == "manifests":
                kind, body = self._manifests.get(f"{found['name']}@{found['reference']}", (_MANIFEST, None))
                return "manifest", kind, body
            part, blob = self._blobs.get(found["reference"], ("layer", None))
            return part, "application/octet-stream", blob

    def _note(self, name: str, part: Part) -> Fault:
        with self._came:
            self._requests.append((name, part))
            self._came.notify_all()
            fault, count = self._faults.get((name, part), (Fault(), 0))
            if fault.times is not None and count >= fault.times:
                return Fault()
            self._faults[name, part] = (fault, count + 1)
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    odd: OddRegistry

    def do_GET(self) -> None:
        self.odd.answer(self)

    do_HEAD = do_GET  # noqa: N815  # the standard library's name

    def log_message(self, *args: object) -> None:
        """Daemons try TLS first, which is no error here."""


@contextmanager
def running() -> Iterator[OddRegistry]:
    registry = OddRegistry()
    try:
        yield registry
    finally:
        registry.close()


def _own_layer(size: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("own")
        data = (uuid.uuid4().bytes * (size // 16 + 1))[:size]
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

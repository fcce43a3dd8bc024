"""The API server at its Service's address, where pods look for it: what kube-proxy does in other clusters."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from .control_plane import API_SERVICE

_READ_BYTES = 65536
# Of the kernel's protocol rtnetlink (linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h).
_NETLINK_ROUTE, _NEW_ADDRESS, _DELETE_ADDRESS, _SCOPE_HOST = 0, 20, 21, 254
# A request, to be acknowledged; and one that creates what is not there yet.
_REQUEST, _CREATE = 0x1 | 0x4, 0x200 | 0x400
# IFA_ADDRESS and IFA_LOCAL.
_ADDRESS_ATTRIBUTES = (1, 2)


@contextmanager
def api_service(server: str) -> Iterator[None]:
    """Forward connections of pods to the API server at a URL. Only one process at a time may do so."""
    found = urlsplit(server)
    # It may be there still, of a test that was killed.
    remove_address()
    _change(_NEW_ADDRESS, _REQUEST | _CREATE)
    try:
        with _Service(API_SERVICE, behind=(str(found.hostname), int(found.port or 443))) as service:
            threading.Thread(target=service.serve_forever, daemon=True).start()
            yield
            service.shutdown()
    finally:
        remove_address()


def remove_address() -> None:
    """Take the Service's address off this machine, where it has it."""
    with suppress(OSError):
        _change(_DELETE_ADDRESS, _REQUEST)


def _change(act: int, flags: int) -> None:
    """Have the loopback interface get or lose the address, by a message to the kernel: no program is started.

    Who cleans up after a cluster can start none, since the process namespace of its children has ended.
    """
    address = socket.inet_aton(API_SERVICE[0])
    attributes = b"".join(struct.pack("=HH4s", 8, kind, address) for kind in _ADDRESS_ATTRIBUTES)
    of_host = struct.pack("=BBBBI", socket.AF_INET, 32, 0, _SCOPE_HOST, socket.if_nametoindex("lo")) + attributes
    request = struct.pack("=IHHII", 16 + len(of_host), act, flags, 1, 0) + of_host
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
        kernel.send(request)
        [error] = struct.unpack_from("=i", kernel.recv(_READ_BYTES), 16)
    if error:
        raise OSError(-error, os.strerror(-error))


class _Service(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def __init__(self, address: tuple[str, int], *, behind: tuple[str, int]) -> None:
        self.behind = behind
        super().__init__(address, _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: _Service

    def handle(self) -> None:
        # They end as they like, and with one end the other.
        with suppress(OSError), socket.create_connection(self.server.behind) as api:
            others = {self.request: api, api: self.request}
            while True:
                for end in select.select(list(others), [], [])[0]:
                    if not (data := end.recv(_READ_BYTES)):
                        return
                    others[end].sendall(data)

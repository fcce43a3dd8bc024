"""Messages from a worker to its warden and keepers, a length and JSON with open files beside it, and their reports."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any

_HEADER = struct.Struct("!I")
_DESCRIPTOR = struct.Struct("i")
# Timers refuse much more.
_MOST_SECONDS = 366 * 86400
# What a launch brings: where stdout and stderr go. A new keeper's control socket comes alone.
LAUNCH_DESCRIPTORS = 2


def send(channel: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message, and open files with it. Raises OSError, and no signal, where the other end is closed."""
    data = _HEADER.pack(len(message)) + message
    if descriptors:
        passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
        # socket.send_fds ignores its flags: https://github.com/python/cpython/issues/107898
        sent = channel.sendmsg([data], [passed], socket.MSG_NOSIGNAL)
        data = data[sent:]
    if data:
        channel.sendall(data, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket, *, most: int | None = None) -> tuple[bytes | None, list[int]]:
    """Return a message and its open files; None once the other end is closed.

    Raises ValueError where it has more than ``most`` bytes.
    """
    header, ancillary, _, _ = channel.recvmsg(
        _HEADER.size,
        socket.CMSG_LEN(LAUNCH_DESCRIPTORS * _DESCRIPTOR.size),
        # No command may inherit them. socket.recv_fds ignores its flags: https://github.com/python/cpython/issues/107898
        socket.MSG_CMSG_CLOEXEC,
    )
    descriptors = [
        descriptor
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (descriptor,) in _DESCRIPTOR.iter_unpack(data[: len(data) - len(data) % _DESCRIPTOR.size])
    ]
    while header and len(header) < _HEADER.size:
        part = channel.recv(_HEADER.size - len(header))
        header = header + part if part else b""
    if not header:
        return None, []
    missing, parts = _HEADER.unpack(header)[0], []
    if most is not None and missing > most:
        raise ValueError(f"A message of {missing} bytes is too long.")
    while missing:
        part = channel.recv(min(missing, 65536))
        if not part:
            return None, []
        parts.append(part)
        missing -= len(part)
    return b"".join(parts), descriptors


def seconds_in(message: bytes, name: str) -> float:
    """Return the seconds that a message names, at most a year. Raises ValueError for anything else."""
    try:
        seconds = json.loads(message)[name]
    except (TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"The message has no {name!r}.") from error
    if type(seconds) not in (int, float) or seconds != seconds:  # noqa: PLR0124  # NaN is not itself
        raise ValueError(f"{name} is {seconds!r}.")
    return float(min(seconds, _MOST_SECONDS))


def send_report(control: socket.socket, **values: Any) -> None:
    """Tell the worker about a job, one line of JSON; a worker that is gone need not know."""
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(values).encode() + b"\n", socket.MSG_NOSIGNAL)


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

"""Answers of the daemon: those that are errors, and those that are read as they come."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import requests
import urllib3
from docker.errors import APIError, DockerException

from ..base import Unavailable

NOT_FOUND, CONFLICT = 404, 409
# A stream silent for this long is opened again. Keepalive finds a peer that is gone earlier, but not a
# proxy that is there and forwards nothing, nor anything by ssh. Opening a log again makes the daemon read all of it.
SILENCE_SECONDS = 300.0
# When keepalive begins to ask, in seconds of silence, how often it asks, and how often without an answer.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_READ_BYTES = 65536
# How an error ends where podman finds a container gone at which it was already looking: it is no 404 (seen with 4.3, of
# a container's description, log and archive; a list leaves out such a container).
_REMOVED_MEANWHILE = "no such container"
_BROKEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    DockerException,
    OSError,
    # The SDK's, on a connection that another thread interrupted.
    ValueError,
    AttributeError,
)


class Gone(Exception):
    """The daemon answers that there is no such container."""


class Failed(Unavailable):
    """The daemon answers with an error. The text is its own; ``status``: of its answer, 0 for an error in a stream."""

    def __init__(self, text: str, *, status: int = 0) -> None:
        self.status = status
        super().__init__(text)


class Silent(Unavailable):
    """The daemon has said nothing for longer than was allowed."""


class Answer:
    """A streamed answer. One thread reads it; any thread may interrupt it."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def pieces(self) -> Iterator[bytes]:
        """Yield the answer in pieces. Raises Unavailable where it is cut or interrupted."""
        try:
            yield from self._response.raw.stream(_READ_BYTES, decode_content=False)
        except (TimeoutError, urllib3.exceptions.ReadTimeoutError) as error:
            raise Silent("The Docker daemon said nothing for too long.") from error
        except _BROKEN as error:
            raise Unavailable(f"The Docker daemon's answer was cut: {error}") from error

    def lines(self) -> Iterator[Any]:
        """Yield the values of an answer that has one JSON value per line."""
        rest = b""
        for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in filter(None, lines):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise Unavailable(f"The Docker daemon's answer is no JSON: {line[:100]!r}") from error

    def allow_pauses(self, seconds: float | None) -> None:
        """Wait for more for so long from now on; None: without a timeout."""
        if (own := self._socket()) is not None:
            own.settimeout(seconds)

    def keep_alive(self) -> None:
        """Have the system notice where the other side is gone without a word: a stream may be silent for long."""
        own = self._socket()
        if own is not None and own.family in (socket.AF_INET, socket.AF_INET6):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                # Not every system has all of them.
                if (number := getattr(socket, name, None)) is not None:
                    own.setsockopt(socket.IPPROTO_TCP, number, value)

    def interrupt(self) -> None:
        """Make the reader's next read fail."""
        own = self._socket()
        if (process := getattr(own, "proc", None)) is not None:
            # A connection by ssh is a client process.
            process.kill()
        elif own is not None:
            with contextlib.suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> Any:
        return getattr(self._response.raw.connection, "sock", None)

    def close(self) -> None:
        self.interrupt()
        with contextlib.suppress(*_BROKEN):
            self._response.close()


def explanation(error: APIError) -> str:
    """Return the daemon's own message."""
    return str(error.explanation or error)


def refusal(text: str, status: int) -> Gone | Failed:
    """Return what to raise for an answer that is an error."""
    if status == NOT_FOUND or text.endswith(_REMOVED_MEANWHILE):
        return Gone(text)
    return Failed(text, status=status)


def error_message(response: requests.Response) -> str:
    """Return what an answer that is an error says."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text

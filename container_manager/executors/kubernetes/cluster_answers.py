"""Answers of the API server: those that are errors, and those that are read as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import urllib3
from kubernetes import client

from ..base import ExecutorError, Unavailable

_READ_BYTES = 65536
# Of what a server says: it may quote what was sent.
MESSAGE_CHARACTERS = 2000
# What breaks on a connection; the last ones where another thread has interrupted it.
BROKEN = (urllib3.exceptions.HTTPError, client.ApiException, OSError, ValueError, AttributeError)


class Absent(ExecutorError):
    """The API server answers that there is no such object."""


class NameTaken(ExecutorError):
    """The API server answers that the object exists, or is another one or another version than was said (409)."""


class Outdated(ExecutorError):
    """The API server no longer has the versions that a watch or the next page of a list would begin with (410)."""


class ApiRefusal(ExecutorError):
    """The API server refuses: ``status`` of HTTP, ``reason`` and ``message`` are its own words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        super().__init__(f"The API server answers {status} ({reason}): {message}")


class Overloaded(Unavailable):
    """The API server answers 429 or an error of its own.

    ``retry_after``: the seconds that it asks for; None: it does not say. ``is_undone``: whether it has certainly done
    nothing.
    """

    def __init__(self, text: str, *, retry_after: float | None, is_undone: bool) -> None:
        self.retry_after, self.is_undone = retry_after, is_undone
        super().__init__(text)


class ApiStream:
    """An answer that is read as it comes. Close it, or use it in a ``with``."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __enter__(self) -> ApiStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield bytes until the server ends the answer. Raises Unavailable where it breaks off, or was interrupted."""
        try:
            for piece in self._answer.stream(_READ_BYTES):
                if piece:
                    yield bytes(piece)
        except BROKEN as error:
            raise Unavailable(f"The answer broke off: {error_words(error)}") from error

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON object of each line."""
        rest = b""
        for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line:
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise Unavailable(f"The answer was not understood: {error_words(error)}") from error

    def interrupt(self) -> None:
        """Make the reader's next read fail (any thread)."""
        with suppress(*BROKEN, RuntimeError):
            self._answer.shutdown()

    def close(self) -> None:
        with suppress(*BROKEN, RuntimeError):
            self._answer.close()


def error_words(error: BaseException) -> str:
    """Return what an error of the connection says; none of them quotes what was sent."""
    return f"{type(error).__name__}: {str(error)[:MESSAGE_CHARACTERS]}"

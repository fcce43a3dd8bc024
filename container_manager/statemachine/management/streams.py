"""A command's standard streams: closed, full, read no more, or of an encoding that lacks characters."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, OutputWrapper

# As a shell reports a program that SIGPIPE has ended.
PIPE_CLOSED = 128 + signal.SIGPIPE


@contextmanager
def usable_streams() -> Iterator[None]:
    """Let a command write to whatever standard output it was given.

    What was closed before is the null device. What the output's encoding lacks is escaped. Once the reader has gone,
    exit as a program does that SIGPIPE ends; where the output cannot be written, exit with 1 and a sentence: neither
    has a traceback.
    """
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            # Here, since Python prints a traceback if it fails as it exits.
            _flush()
    except BrokenPipeError:
        _discard_output()
        sys.exit(PIPE_CLOSED)


class StreamsCommand(BaseCommand):
    """A command of Django that works with any standard streams, and explains in a sentence what it cannot write."""

    def run_from_argv(self, argv: list[str]) -> None:
        with usable_streams():
            # Those of the constructor may have been closed.
            self.stdout, self.stderr = OutputWrapper(sys.stdout), OutputWrapper(sys.stderr)
            self.stderr.style_func = self.style.ERROR
            super().run_from_argv(argv)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CommandError(f"{error}.") from error


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        sys.exit(f"The output could not be written: {error}.")


def _open_closed() -> None:
    """Open the null device as each of the descriptors 0, 1 and 2 that is closed: else a file would get its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _discard_output() -> None:
    """Let what is still buffered go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

"""Show on stderr how far long work has come."""

from __future__ import annotations

import time
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .printing import rich_console

# Between two lines where nothing can be redrawn.
_LINE_SECONDS = 5.0
# Told how much is done, and of how much, if that is known.
Advance = Callable[[int, int | None], object]


def add_progress_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--progress", action=BooleanOptionalAction, help="Show progress on stderr. Default: if that is a terminal."
    )


@contextmanager
def progress(options: Mapping[str, Any], what: str) -> Iterator[Advance | None]:
    """Yield what is to be told of the progress; None if nobody is to see it.

    ``what``: what is counted, such as ``jobs examined``. It is a bar on a terminal if rich is installed, else a line
    every few seconds.
    """
    err = options["err"]
    wanted = err.isatty() if options["progress"] is None else options["progress"]
    if not wanted:
        yield None
    elif (console := rich_console(err, options)) is not None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        # It vanishes when the work is done: what was done is said on stdout.
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        lines = _Lines(err, what)
        yield lines
        lines.end()


class _Lines:
    """Prints a line every few seconds, and one at the end."""

    def __init__(self, err: Any, what: str) -> None:
        self._err, self._what, self._printed, self._line = err, what, time.monotonic(), f"0 {what}"

    def __call__(self, done: int, total: int | None) -> None:
        self._line = f"{done}{'' if total is None else f' of {total}'} {self._what}"
        if time.monotonic() - self._printed >= _LINE_SECONDS:
            self.end()

    def end(self) -> None:
        self._printed = time.monotonic()
        # Not in the style of errors.
        self._err.write(self._line, lambda text: text)
        self._err.flush()

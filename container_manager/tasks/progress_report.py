"""Say from inside a task how far it has come."""

from __future__ import annotations

import os
from pathlib import Path

from ..executors.base import PROGRESS_VARIABLE
from ..jobs.printable import escaped


def report_progress(done: int, total: int, text: str = "") -> None:
    """Say that ``done`` of ``total`` is done, and in words what the task does; the worker looks every few seconds.

    Does nothing where nobody reads it: outside of a job, or in a container whose executor lacks the option
    ``progress``. Raises ValueError for a ``total`` below 1 or a ``done`` below 0.
    """
    if done < 0 or total < 1:
        raise ValueError(f"Progress is a number from 0 of one from 1, not {done} of {total}.")
    if path := os.environ.get(PROGRESS_VARIABLE):
        Path(path).write_text(f"{done:d}/{total:d} {escaped(text)}\n", encoding="utf-8")

"""A management command as it is typed, but in the tests' own process: most take less time than an interpreter's start.

A test of what a process has, its streams, its signals, its settings or its system checks, starts one.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from django.core.management import load_command_class

# The checks ask every database from Django 6.1 on, and a test has those only that it names.
_MANAGE = ("manage.py", "container", "--skip-checks")


class Done(NamedTuple):
    """How it ended, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stdout: str
    stderr: str


def typed(*words: str) -> Done:
    """Run ``manage.py container`` with these words; an exception that would be a traceback is raised."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: int | str | None = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            load_command_class("container_manager", "container").run_from_argv([*_MANAGE, *words])
        except SystemExit as ended:
            code = ended.code
    printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))
    return (
        Done(code, printed, said) if isinstance(code, int) else Done(int(bool(code)), printed, said + str(code or ""))
    )

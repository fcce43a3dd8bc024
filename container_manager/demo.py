"""``python -m container_manager demo``: the whole life of jobs, on a database of its own that is thrown away."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .standalone import CONFIG_VARIABLE, DATABASE_VARIABLE, configure

if TYPE_CHECKING:
    from .models import ContainerJob

_CONFIG = """\
POLL_SECONDS = 0.2
[RETRY]
INITIAL_SECONDS = 0.5
"""
_LIMIT_SECONDS = 60
_REDRAW_SECONDS = 0.2


def main(out: TextIO = sys.stdout) -> int:
    """Run the demo; return 0 if every job ended as it should."""
    with tempfile.TemporaryDirectory(prefix="container-manager-demo-") as name:
        folder = Path(name)
        config = folder / "config.toml"
        config.write_text(_CONFIG)
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
        os.environ[CONFIG_VARIABLE] = str(config)
        os.environ[DATABASE_VARIABLE] = str(folder / "demo.sqlite3")
        configure()
        return _play(folder, out)


def _play(folder: Path, out: TextIO) -> int:
    from .models import ContainerJob

    say = _Narrator(out)
    say(f"A database of its own: SQLite in {folder}. A worker: a real process. Jobs: real commands.")
    jobs = _submit(folder)
    command = [sys.executable, "-m", "container_manager", "worker", "--slots", "4", "--log-level", "ERROR"]
    worker = subprocess.Popen(command)  # noqa: S603  # our own interpreter and module
    try:
        _watch(jobs, say, until=lambda: jobs["endless"].status == ContainerJob.Status.RUNNING)
        say("The job named endless runs for ever. It is cancelled while it runs:")
        jobs["endless"].mark_as_cancelled(actor="demo", reason="took too long")
        _watch(jobs, say, until=lambda: all(_is_over(job) for job in jobs.values()))
    finally:
        worker.terminate()
        worker_code = worker.wait(timeout=_LIMIT_SECONDS)
    _show_refusals(jobs["hello"], say)
    _show_journal(jobs["second try"], say)
    return _verdict(jobs, worker_code, say)


def _submit(folder: Path) -> dict[str, ContainerJob]:
    from .models import ContainerJob

    flag = folder / "was here"
    commands = {
        "hello": ("sh -c 'echo Hello from a job'", {}),
        "second try": (f'sh -c \'test -e "{flag}" || {{ touch "{flag}"; echo failing once >&2; exit 3; }}\'', {}),
        "endless": ("sh -c 'while :; do sleep 0.1; done'", {}),
        "too slow": ("sleep 60", {"timeout_seconds": 1, "grace_seconds": 1, "max_retries": 0}),
        "no such": ("no-such-program --help", {}),
    }
    jobs: dict[str, ContainerJob] = {}
    for name, (command, fields) in commands.items():
        jobs[name] = ContainerJob.objects.create_job(name=name, command=command, created_by="demo", **fields)
        jobs[name].mark_as_queued(actor="demo")
    return jobs


def _is_over(job: ContainerJob) -> bool:
    return (job.is_terminal or job.status == "failed") and not job.attempts.filter(finished_at=None).exists()


class _Narrator:
    """Prints paragraphs, and a table that is redrawn in place on a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lines, self._shown = out, 0, ""

    def __call__(self, text: str) -> None:
        self._out.write(f"\n{text}\n")
        self._lines, self._shown = 0, ""
        self._out.flush()

    def line(self, text: str) -> None:
        self._out.write(f"    {text}\n")

    def table(self, jobs: Sequence[ContainerJob]) -> None:
        from .cli.base import print_table
        from .cli.ps import HEADINGS, row

        text = io.StringIO()
        print_table(text, HEADINGS, [row(job) for job in jobs])
        states = str([(job.status, job.attempt) for job in jobs])
        if not self._out.isatty():
            if states != self._shown:
                self._out.write("\n" + text.getvalue())
        else:
            self._out.write((f"\x1b[{self._lines}A\x1b[J" if self._lines else "\n") + text.getvalue())
            self._lines = len(jobs) + 1
        self._shown = states
        self._out.flush()


def _watch(jobs: dict[str, ContainerJob], say: _Narrator, *, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        for job in jobs.values():
            job.refresh_from_db()
        say.table(list(jobs.values()))
        if until():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"The demo's jobs did not come to an end within {_LIMIT_SECONDS} s.")
        time.sleep(_REDRAW_SECONDS)


def _show_refusals(job: ContainerJob, say: _Narrator) -> None:
    from django.db import IntegrityError, connection

    from .statemachine import InvalidTransition

    say("hello has completed. Nothing can make it run again. Not its method:")
    try:
        job.transition_to("running")
    except InvalidTransition as refusal:
        say(f"    job.transition_to('running')  ->  {type(refusal).__name__}: {refusal}")
    say("And not SQL, whoever sends it:")
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE container_manager_containerjob SET status = 'running' WHERE name = 'hello'")
    except IntegrityError as refusal:
        say(f"    UPDATE … SET status = 'running'  ->  {type(refusal).__name__}: {refusal}")


def _show_journal(job: ContainerJob, say: _Narrator) -> None:
    from .cli.base import clock

    say(f"The journal of {job.name!r}, written by the database itself:")
    for entry in job.transitions.all():
        why = f" ({entry.reason})" if entry.reason else ""
        say.line(f"{clock(entry.at)}  {entry.from_status:>9} -> {entry.to_status:<9}  {entry.actor}{why}")


def _verdict(jobs: dict[str, ContainerJob], worker_code: int, say: _Narrator) -> int:
    expected = {
        "hello": ("completed", "", 1),
        "second try": ("completed", "", 2),
        "endless": ("cancelled", "", 1),
        "too slow": ("failed", "timeout", 1),
        "no such": ("failed", "start", 1),
    }
    wrong = [
        f"{name}: expected {expected[name]}, found {found}"
        for name, job in jobs.items()
        if (found := (job.status, job.failure_reason, job.attempt)) != expected[name]
    ]
    if worker_code:
        wrong.append(f"the worker ended with {worker_code}")
    say("\n".join(["NOT as expected:", *wrong]) if wrong else "Every job ended as it should.")
    return 1 if wrong else 0

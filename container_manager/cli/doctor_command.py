"""Look for a job that lies: compare jobs with their journal and their attempts; with an option, ask the engines too."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, TypedDict

from ..conf import app_settings
from ..jobs.printable import escaped
from ..models import JobStatus
from ..store.consistency import examine
from .engine_health import health_of
from .printing import Output, print_json
from .progress import add_progress_argument, progress
from .time_options import time_option


class Result(TypedDict):
    """How many jobs (by status), attempts and journal entries were examined, and what was found."""

    jobs: dict[str, int]
    attempts: int
    transitions: int
    problems: list[str]
    notes: list[str]


JSON = Result


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--finished", action="store_true", help="A job that has not ended is a problem too.")
    parser.add_argument(
        "--executors", action="store_true", help="Ask each executor too: one that cannot run jobs is a problem."
    )
    parser.add_argument(
        "--since",
        metavar="WHEN",
        help="Only jobs that have changed since, and those with an open attempt: 2h (ago), or 2026-01-31T22:00.",
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    using = options["database"]
    since = None if options["since"] is None else time_option("--since", options["since"], using=using)
    with progress(options, "jobs examined") as advance:
        diagnosis = examine(since=since, progress=advance, using=using)
    if options["finished"]:
        for status in (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRYING):
            if count := diagnosis.jobs[status]:
                diagnosis.problems.append(f"{count} jobs are still {status}")
    if options["executors"]:
        settings = app_settings()
        found = {alias: health_of(settings, alias) for alias in sorted(settings.executors)}
        diagnosis.problems += [f"executor {alias!r}: {each.message}" for alias, each in found.items() if not each.ok]
        diagnosis.notes += [f"executor {alias!r}: {text}" for alias, each in found.items() for text in each.warnings]
    if options["json"]:
        result = Result(
            jobs=dict(diagnosis.jobs),
            attempts=diagnosis.attempts,
            transitions=diagnosis.transitions,
            problems=diagnosis.problems,
            notes=diagnosis.notes,
        )
        print_json(out, result)
    else:
        by_status = ", ".join(f"{count} {escaped(status)}" for status, count in sorted(diagnosis.jobs.items()))
        counts = f"{diagnosis.attempts} attempts, {diagnosis.transitions} transitions"
        # In one piece: Django ends each with a line break.
        out.write(f"{diagnosis.jobs.total()} jobs ({by_status or 'none'}), {counts}\n")
        for note in diagnosis.notes:
            out.write(f"Note: {escaped(note)}\n")
        for problem in diagnosis.problems:
            out.write(f"{escaped(problem)}\n")
        out.write(f"{len(diagnosis.problems)} problems\n")
    return 1 if diagnosis.problems else 0

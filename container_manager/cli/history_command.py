"""Print a job's journal: every status change, by whom and why."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from ..models import JobStatus
from .finding import find_job
from .printing import Output, clock, print_json, print_table


class Entry(TypedDict):
    """One change of the job's status."""

    at: datetime
    from_status: JobStatus
    to_status: JobStatus
    actor: str
    reason: str


JSON = list[Entry]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="An id, its beginning, or a name.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    job = find_job(options, options["job"])
    names = tuple(Entry.__annotations__)
    rows = list(job.transitions.values(*names))
    if options["json"]:
        print_json(out, rows)
    else:
        lines = [(clock(row["at"]), *(row[name] for name in names[1:])) for row in rows]
        print_table(out, ("AT (UTC)", "FROM", "TO", "BY", "REASON"), lines)
    return 0

"""Print a job's journal: every status change, by whom and why."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from .finding import find_job
from .printing import Output, clock, print_json, print_table


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="An id, its beginning, or a name.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    job = find_job(options, options["job"])
    names = ("at", "from_status", "to_status", "actor", "reason")
    rows = list(job.transitions.values(*names))
    if options["json"]:
        print_json(out, rows)
    else:
        lines = [(clock(row["at"]), *(row[name] for name in names[1:])) for row in rows]
        print_table(out, ("AT (UTC)", "FROM", "TO", "BY", "REASON"), lines)
    return 0

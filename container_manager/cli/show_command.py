"""Show all of one job: what it is to run, its attempts, its journal, and what explains its status."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ..jobs.spec import JSON_FIELDS
from ..models import ContainerJob
from ..queue import explain
from ..queue.explanation import moment
from .finding import find_job
from .printing import Output, clock, print_explanation, print_json, print_table

_ATTEMPT = (
    *("number", "worker", "executor", "engine", "handle", "launched_at", "waited_seconds", "waiting_for"),
    *("finished_at", "kill_requested_at", "exit_code", "signal", "reason", "message"),
    *("peak_memory_bytes", "cpu_seconds"),
)
# Of an attempt, in the table.
_SHOWN = ("number", "worker", "launched_at", "finished_at", "exit_code", "signal", "reason", "message")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="An id, its beginning, or a name.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    job = find_job(options, options["job"])
    values = {field.name: getattr(job, field.name) for field in job._meta.concrete_fields}
    attempts = list(job.attempts.order_by("number").values(*_ATTEMPT))
    transitions = list(_transitions(job))
    explanation = explain(job, using=options["database"])
    if options["json"]:
        found = {"job": values, "attempts": attempts, "transitions": transitions, "explanation": asdict(explanation)}
        print_json(out, found)
        return 0
    print_table(
        out, ("FIELD", "VALUE"), [(name, _text(name, value)) for name, value in values.items() if _is_set(value)]
    )
    out.write("\n")
    print_explanation(out, explanation)
    out.write("\n")
    rows = [[clock(row[name]) if name.endswith("_at") else row[name] for name in _SHOWN] for row in attempts]
    print_table(out, ("TRY", "WORKER", "CLAIMED (UTC)", "ENDED (UTC)", "EXIT", "SIGNAL", "REASON", "MESSAGE"), rows)
    out.write("\n")
    moves = [
        (clock(row["at"]), row["from_status"], f"{row['seconds']:.1f} s", row["to_status"], row["actor"], row["reason"])
        for row in transitions
    ]
    print_table(out, ("AT (UTC)", "FROM", "AFTER", "TO", "BY", "REASON"), moves)
    return 0


def _transitions(job: ContainerJob) -> Iterator[dict[str, Any]]:
    """Yield the journal; ``seconds`` is how long the job had the status that it left."""
    since = job.created_at
    for row in job.transitions.values("at", "from_status", "to_status", "actor", "reason"):
        # The clock of who created the job may be ahead of the database's.
        yield {**row, "seconds": max(0.0, (row["at"] - since).total_seconds())}
        since = row["at"]


def _is_set(value: object) -> bool:
    return value is not None and value not in ("", {})


def _text(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return moment(value)
    return json.dumps(value, ensure_ascii=False) if name in JSON_FIELDS else value

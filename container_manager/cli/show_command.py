"""Show all of one job: what it is to run, its attempts, its journal, and what explains its status."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypedDict

from ..jobs.printable import escaped
from ..jobs.progress_lines import Progress, progress_of
from ..jobs.spec import JSON_FIELDS
from ..jobs.time_words import moment
from ..models import ContainerJob
from ..queue import Explanation, explain
from .finding import find_job
from .history_command import Entry
from .printing import Output, clock, print_explanation, print_json, print_table


class Attempt(TypedDict):
    """An attempt; ``engine`` and ``handle`` name it there, ``finished_at`` is null while it is open.

    ``result``: the JSON value that it has handed out. ``progress``: null if it has said nothing of it.
    """

    number: int
    worker: str
    executor: str
    engine: str
    handle: str
    launched_at: datetime
    waited_seconds: float
    waiting_for: str
    finished_at: datetime | None
    kill_requested_at: datetime | None
    exit_code: int | None
    signal: int | None
    reason: str
    message: str
    peak_memory_bytes: int | None
    cpu_seconds: float | None
    result: Any
    progress: Progress | None


class TimedEntry(Entry):
    """A change of the status; ``seconds``: how long the job had the status that it left."""

    seconds: float


class ShownJob(TypedDict):
    """One job; ``job`` has each of its fields by name."""

    job: dict[str, Any]
    attempts: list[Attempt]
    transitions: list[TimedEntry]
    explanation: Explanation


JSON = ShownJob
# Of an attempt, in the table.
_SHOWN = ("number", "worker", "launched_at", "finished_at", "exit_code", "signal", "reason", "message")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="An id, its beginning, or a name.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    job = find_job(options, options["job"])
    values = {field.name: getattr(job, field.name) for field in job._meta.concrete_fields}
    rows = job.attempts.order_by("number").values(*Attempt.__annotations__)
    attempts = [{**row, "progress": progress_of(row["progress"])} for row in rows]
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
    if attempts and (progress := attempts[-1]["progress"]) is not None:
        out.write(f"Progress: {progress}\n\n")
    if attempts and (result := attempts[-1]["result"]) is not None:
        out.write(f"Result: {escaped(json.dumps(result, ensure_ascii=False))}\n\n")
    lines = [[clock(row[name]) if name.endswith("_at") else row[name] for name in _SHOWN] for row in attempts]
    print_table(out, ("TRY", "WORKER", "CLAIMED (UTC)", "ENDED (UTC)", "EXIT", "SIGNAL", "REASON", "MESSAGE"), lines)
    out.write("\n")
    moves = [
        (clock(row["at"]), row["from_status"], f"{row['seconds']:.1f} s", row["to_status"], row["actor"], row["reason"])
        for row in transitions
    ]
    print_table(out, ("AT (UTC)", "FROM", "AFTER", "TO", "BY", "REASON"), moves)
    return 0


def _transitions(job: ContainerJob) -> Iterator[dict[str, Any]]:
    """Yield the journal, with the time that the job had each status."""
    since = job.created_at
    for row in job.transitions.values(*Entry.__annotations__):
        # The clock of who created the job may be ahead of the database's.
        yield {**row, "seconds": max(0.0, (row["at"] - since).total_seconds())}
        since = row["at"]


def _is_set(value: object) -> bool:
    return value is not None and value not in ("", {})


def _text(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return moment(value)
    return json.dumps(value, ensure_ascii=False) if name in JSON_FIELDS else value

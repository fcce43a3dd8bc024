"""Run jobs again: a failed job itself, a completed or cancelled one as a new job."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, TypedDict
from uuid import UUID

from ..jobs.printable import escaped
from ..queue import retry
from ..statemachine import TransitionError
from .finding import find_job, short_id
from .printing import Output, print_json


class RetriedJob(TypedDict):
    """A job, which job runs it again (itself or a new one; null if none does), and why none does: "" if one does."""

    id: UUID
    runs_as: UUID | None
    refused: str


JSON = list[RetriedJob]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", nargs="+", help="An id, its beginning, or a name.")
    parser.add_argument("--reason", default="", help="Why; kept in the journal.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    rows: list[RetriedJob] = []
    # Found before the first is retried: a wrong id changes nothing.
    for job in [find_job(options, text) for text in options["job"]]:
        pk = job.pk
        try:
            again = retry(job, actor="command line", reason=options["reason"]).pk
            row, told = RetriedJob(id=pk, runs_as=again, refused=""), "queued" if again == pk else f"queued as {again}"
        except TransitionError as error:
            row, told = RetriedJob(id=pk, runs_as=None, refused=str(error)), escaped(error)
        rows.append(row)
        if not options["json"]:
            out.write(f"{short_id(pk)} {told}\n")
    if options["json"]:
        print_json(out, rows)
    return 1 if any(row["refused"] for row in rows) else 0

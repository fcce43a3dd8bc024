"""Cancel jobs. The status changes at once; the worker then stops, or kills, what runs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, TypedDict
from uuid import UUID

from .. import queue
from ..jobs.printable import escaped, validate_lines
from ..statemachine import TransitionError
from .finding import find_job, short_id
from .printing import Output, print_json


class Cancellation(TypedDict):
    """A job, and why it was not cancelled: "" if it was."""

    id: UUID
    refused: str


JSON = list[Cancellation]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", nargs="+", help="An id, its beginning, or a name.")
    parser.add_argument(
        "--now", action="store_true", help="Kill what runs of them, also of those that were cancelled before."
    )
    parser.add_argument("--reason", default="", help="Why; kept in the journal.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    validate_lines(options["reason"])
    rows: list[Cancellation] = []
    # Found before the first is cancelled: a wrong id changes nothing.
    for job in [find_job(options, text) for text in options["job"]]:
        refused = ""
        try:
            queue.cancel(job, now=options["now"], actor="command line", reason=options["reason"])
        except TransitionError as error:
            refused = str(error)
        rows.append(Cancellation(id=job.pk, refused=refused))
        if not options["json"]:
            out.write(f"{short_id(job.pk)} {escaped(refused) or 'cancelled'}\n")
    if options["json"]:
        print_json(out, rows)
    return 1 if any(row["refused"] for row in rows) else 0

"""Cancel jobs. The status changes at once; the worker then stops, or kills, what runs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from .. import queue
from ..jobs.printable import escaped, validate_lines
from ..statemachine import TransitionError
from .finding import find_job, short_id
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", nargs="+", help="An id, its beginning, or a name.")
    parser.add_argument(
        "--now", action="store_true", help="Kill what runs of them, also of those that were cancelled before."
    )
    parser.add_argument("--reason", default="", help="Why; kept in the journal.")


def run(options: Mapping[str, Any], out: Output) -> int:
    refused = 0
    validate_lines(options["reason"])
    for text in options["job"]:
        job = find_job(options, text)
        try:
            queue.cancel(job, now=options["now"], actor="command line", reason=options["reason"])
            out.write(f"{short_id(job.pk)} cancelled\n")
        except TransitionError as error:
            out.write(f"{short_id(job.pk)} {escaped(error)}\n")
            refused += 1
    return 1 if refused else 0

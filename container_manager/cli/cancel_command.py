"""Cancel jobs. The status changes at once; the worker then stops what runs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from ..jobs.printable import escaped, validate_lines
from ..statemachine import TransitionError
from .finding import find_job, short_id
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", nargs="+", help="An id, its beginning, or a name.")
    parser.add_argument("--reason", default="", help="Why; kept in the journal.")


def run(options: Mapping[str, Any], out: Output) -> int:
    refused = 0
    validate_lines(options["reason"])
    for text in options["job"]:
        job = find_job(options, text)
        try:
            job.mark_as_cancelled(actor="command line", reason=options["reason"])
            out.write(f"{short_id(job.pk)} cancelled\n")
        except TransitionError as error:
            out.write(f"{short_id(job.pk)} {escaped(error)}\n")
            refused += 1
    return 1 if refused else 0

"""Run jobs again: a failed job itself, a completed or cancelled one as a new job."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from ..jobs.printable import escaped
from ..queue import retry
from ..statemachine import TransitionError
from .finding import find_job, short_id
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", nargs="+", help="An id, its beginning, or a name.")
    parser.add_argument("--reason", default="", help="Why; kept in the journal.")


def run(options: Mapping[str, Any], out: Output) -> int:
    refused = 0
    for text in options["job"]:
        job = find_job(options, text)
        try:
            again = retry(job, actor="command line", reason=options["reason"])
            out.write(f"{short_id(job.pk)} queued" + (f" as {again.pk}\n" if again.pk != job.pk else "\n"))
        except TransitionError as error:
            out.write(f"{short_id(job.pk)} {escaped(error)}\n")
            refused += 1
    return 1 if refused else 0

"""Try failed jobs again."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.db import transaction

from ..models import JobStatus
from ..statemachine import TransitionError
from .base import Output, find_job, short_id


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", nargs="+", help="An id, its end, or a name.")
    parser.add_argument("--reason", default="", help="Why; kept in the journal.")


def run(options: Mapping[str, Any], out: Output) -> int:
    refused = 0
    for text in options["job"]:
        job = find_job(options, text)
        try:
            with transaction.atomic(using=options["database"]):
                job.transition_to(JobStatus.RETRYING, actor="command line", reason=options["reason"])
                job.mark_as_queued(actor="command line", reason=options["reason"])
            out.write(f"{short_id(job.pk)} queued\n")
        except TransitionError as error:
            out.write(f"{short_id(job.pk)} {error}\n")
            refused += 1
    return 1 if refused else 0

"""Queue a job for the workers and print its id, or that of the job which holds its unique key."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict
from uuid import UUID

from django.db import transaction

from ..models import JobStatus
from .job_arguments import add_job_arguments, create_job
from .printing import Output, print_json
from .time_options import from_now


class Submitted(TypedDict):
    """The new job, or, if it ``existed`` before, the one that holds its unique key."""

    id: UUID
    status: JobStatus
    existed: bool


JSON = Submitted


def add_arguments(parser: ArgumentParser) -> None:
    add_job_arguments(parser)
    parser.add_argument("--delay", type=float, metavar="SECONDS", help="Start no earlier than this from now.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    delay, scheduled_for = options["delay"], None
    if delay is not None:
        scheduled_for = from_now("--delay", delay, timedelta(seconds=1), using=options["database"])
    # All or nothing: a job that is never queued would hold its unique key.
    with transaction.atomic(using=options["database"]):
        job = create_job(options)
        if not job.existed:
            job.mark_as_queued(scheduled_for)
    if options["json"]:
        print_json(out, Submitted(id=job.pk, status=JobStatus(job.status), existed=job.existed))
    else:
        out.write(f"{job.pk}\n")
    return 0

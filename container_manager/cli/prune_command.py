"""Delete jobs that ended long ago, with their logs and history."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict

from ..models import FINISHED_STATUSES
from ..queue import prune_jobs
from .finding import Refused
from .printing import Output, print_json
from .progress import add_progress_argument, progress
from .time_options import from_now


class Pruned(TypedDict):
    """How many jobs were deleted."""

    deleted: int


JSON = Pruned


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--days", type=float, required=True, help="Ended at least this long ago.")
    parser.add_argument(
        "--status", action="append", choices=[str(s) for s in FINISHED_STATUSES], help="Only these. Repeatable."
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    if options["days"] < 0:
        raise Refused(f"--days must not be negative, it is {options['days']}.")
    before = from_now("--days", options["days"], timedelta(days=-1), using=options["database"])
    statuses, using = options["status"] or FINISHED_STATUSES, options["database"]
    with progress(options, "jobs deleted") as advance:
        deleted = prune_jobs(before=before, statuses=statuses, progress=advance, using=using)
    if options["json"]:
        print_json(out, Pruned(deleted=deleted))
    else:
        out.write(f"{deleted} jobs deleted\n")
    return 0

"""Show the queues, or pause and resume one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..queue import QueueStatistics, pause_queue, queue_statistics, resume_queue
from .printing import Output, bounded, clock, print_json, print_table

JSON = list[QueueStatistics]


def add_arguments(parser: ArgumentParser) -> None:
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--pause", metavar="NAME", help="Let no worker take jobs from this queue.")
    change.add_argument("--resume", metavar="NAME", help="Let workers take jobs from it again.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    using = options["database"]
    if options["pause"]:
        pause_queue(options["pause"], by="command line", using=using)
    if options["resume"]:
        resume_queue(options["resume"], using=using)
    found = sorted(queue_statistics(using=using).values(), key=lambda entry: entry.queue)
    if options["json"]:
        print_json(out, [asdict(entry) for entry in found])
        return 0
    headings = ("QUEUE", "QUEUED", "SCHEDULED", "RUNNING", "RETRYING", "OLDEST", "LAST HOUR", "")
    rows = [
        (
            entry.queue,
            *map(bounded, (entry.queued, entry.scheduled, entry.running, entry.retrying)),
            clock(entry.oldest),
            ", ".join(f"{bounded(count)} {status}" for status, count in sorted(entry.finished.items())),
            "; ".join([*(["paused"] if entry.paused else []), *(f"no worker serves {e}" for e in entry.unserved)]),
        )
        for entry in found
    ]
    print_table(out, headings, rows)
    return 0

"""Look for a job that lies: compare every job with its journal and its attempts."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..jobs.printable import escaped
from ..models import JobStatus
from ..store.consistency import examine
from .printing import Output, print_json


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--finished", action="store_true", help="A job that has not ended is a problem too.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    diagnosis = examine(using=options["database"])
    if options["finished"]:
        for status in (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRYING):
            if count := diagnosis.jobs[status]:
                diagnosis.problems.append(f"{count} jobs are still {status}")
    if options["json"]:
        # asdict() takes a Counter's items for what it is to count.
        print_json(out, {**asdict(diagnosis), "jobs": dict(diagnosis.jobs)})
    else:
        by_status = ", ".join(f"{count} {escaped(status)}" for status, count in sorted(diagnosis.jobs.items()))
        out.write(f"{diagnosis.jobs.total()} jobs ({by_status or 'none'}), ")
        out.write(f"{diagnosis.attempts} attempts, {diagnosis.transitions} transitions\n")
        for note in diagnosis.notes:
            out.write(f"Note: {escaped(note)}\n")
        for problem in diagnosis.problems:
            out.write(f"{escaped(problem)}\n")
        out.write(f"{len(diagnosis.problems)} problems\n")
    return 1 if diagnosis.problems else 0

"""Print the output of a job's last attempt, or of the one asked for."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Any

from ..models import ContainerJob, JobAttempt, JobLog
from .finding import find_job
from .printing import Output

_POLL_SECONDS = 0.3
# Printed when rows were dropped while following. Later readers see the worker's own "system" line instead.
_GAP = b"[more output came than the log holds: some was dropped here]\n"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("job", help="An id, its beginning, or a name.")
    parser.add_argument(
        "--follow",
        "-f",
        action="store_true",
        help="Go on, through later attempts, until the job or the attempt asked for has ended.",
    )
    parser.add_argument("--attempt", type=int, help="Which attempt; by default the last one.")
    parser.add_argument("--stream", choices=["stdout", "stderr", "system"], help="Only this one.")


def run(options: Mapping[str, Any], out: Output) -> int:
    job = find_job(options, options["job"])
    if options["follow"]:
        for stream, data in follow(job, only=options["attempt"]):
            if options["stream"] in (None, stream):
                write_bytes(out, data)
        return 0
    rows = JobLog.objects.using(options["database"]).filter(
        attempt__job=job, attempt__number=options["attempt"] or job.attempt
    )
    if options["stream"]:
        rows = rows.filter(stream=options["stream"])
    for entry in rows.iterator(chunk_size=16):
        write_bytes(out, bytes(entry.data))
    return 0


def follow(job: ContainerJob, *, only: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (stream, data) of a job as it is stored, attempt after attempt, until the job is finished.

    ``only``: the attempt to follow, until it is closed.
    """
    using, number, sequence, previous = job._state.db, only or max(job.attempt, 1), -1, ""
    while True:
        # Read the status before the output, so that output stored before the end is not missed.
        job.refresh_from_db(fields=["status", "attempt"])
        newest = JobAttempt.objects.using(using).filter(job=job, number=number).first()
        rows = JobLog.objects.using(using).filter(attempt__job=job, attempt__number=number, sequence__gt=sequence)
        for entry in rows.iterator(chunk_size=16):
            if entry.sequence > sequence + 1 and previous != "system":
                yield "system", _GAP
            sequence, previous = entry.sequence, entry.stream
            yield entry.stream, bytes(entry.data)
        if only is not None and (job.attempt > only if newest is None else newest.finished_at is not None):
            return
        if newest is not None and newest.finished_at is not None and job.attempt > number:
            number, sequence = number + 1, -1
            continue
        if job.is_finished and (newest is None or newest.finished_at is not None):
            return
        time.sleep(_POLL_SECONDS)


def write_bytes(out: Output, data: bytes) -> None:
    """Write raw bytes if the stream allows it, else decoded text."""
    # Django wraps a command's stream.
    stream = getattr(out, "_out", out)
    if stream in (sys.stdout, sys.stderr) and hasattr(stream, "buffer"):
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
    else:
        stream.write(data.decode("utf-8", "replace"))

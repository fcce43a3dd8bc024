"""List unfinished jobs, or all jobs, the newest last."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from ..dashboard.search import JobSearch, parse
from ..jobs.progress_lines import Progress, progress_of
from ..models import FINISHED_STATUSES, ContainerJob, JobAttempt, JobStatus
from ..querysets import ContainerJobQuerySet
from ..store import database_now
from .finding import job_queryset, short_id
from .printing import Output, print_json, print_table

HEADINGS = ("ID", "NAME", "STATUS", "TRY", "EXIT", "REASON", "FOR", "COMMAND")
_COMMAND_WIDTH = 40
_OF_THE_ATTEMPT = ("waiting_for", "progress")
# Of one statement.
_BATCH = 500


class ListedJob(TypedDict):
    """A job; ``waiting_for``: what the launch of its present attempt waits for, "" if for nothing.

    ``progress``: how far that attempt has come, as it says itself; null if it says nothing of it, or is over.
    """

    id: UUID
    name: str
    status: JobStatus
    queue: str
    executor: str
    image: str
    command: str
    attempt: int
    retry_count: int
    max_retries: int
    exit_code: int | None
    failure_reason: str
    last_error: str
    worker: str
    queued_at: datetime | None
    launched_at: datetime | None
    completed_at: datetime | None
    waiting_for: str
    progress: Progress | None


JSON = list[ListedJob]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--all", "-a", action="store_true", help="Finished jobs too.")
    parser.add_argument("--status", choices=JobStatus.values, help="Only jobs in this status.")
    parser.add_argument("--limit", type=int, default=50, help="At most this many. Default: %(default)s.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    # No more than the databases' largest integer.
    found, limit = job_queryset(options), min(max(0, options["limit"]), sys.maxsize)
    if options["all"] and not options["status"]:
        newest = list(found.order_by("-pk")[:limit])
    else:
        unfinished = [status for status in JobStatus if status not in FINISHED_STATUSES]
        newest = list(_newest(found, [options["status"]] if options["status"] else unfinished, limit))
    newest.reverse()
    open_ones = _open_attempts(using=options["database"])
    attempts = [(job, *open_ones.get((job.pk, job.attempt), ("", None))) for job in newest]
    if options["json"]:
        print_json(out, [{**_values(job), "waiting_for": waits, "progress": said} for job, waits, said in attempts])
    else:
        now = database_now(using=options["database"])
        print_table(out, HEADINGS, [row(job, now=now, waits=waits, progress=said) for job, waits, said in attempts])
    return 0


def _newest(found: ContainerJobQuerySet, statuses: Sequence[str], limit: int) -> Iterator[ContainerJob]:
    """Yield the newest jobs in these statuses, of a finished status those that finished last.

    Status by status, since an index serves one.
    """
    keys = list[UUID]()
    for status in statuses:
        cursor, of_status = "", list[UUID]()
        while len(of_status) < limit:
            page, cursor = JobSearch(found, parse(f"status:{status}")).keys(cursor, min(_BATCH, limit - len(of_status)))
            of_status += page
            if not cursor:
                break
        keys += of_status
    if len(statuses) > 1:
        keys = sorted(keys, reverse=True)[:limit]
    for start in range(0, len(keys), _BATCH):
        batch = found.in_bulk(keys[start : start + _BATCH])
        # One may have been pruned meanwhile.
        yield from (batch[key] for key in keys[start : start + _BATCH] if key in batch)


def row(job: ContainerJob, *, now: datetime, waits: str = "", progress: Progress | None = None) -> tuple[object, ...]:
    """Return a job's row of the table; ``waits``: what the launch of its present attempt waits for."""
    command = job.command if len(job.command) <= _COMMAND_WIDTH else job.command[: _COMMAND_WIDTH - 1] + "…"
    since = (now - (job.status_changed_at or job.created_at)).total_seconds()
    return (
        short_id(job.pk),
        job.name,
        job.status,
        job.attempt or "",
        job.exit_code,
        f"waits for {waits}" if waits else progress or job.failure_reason,
        f"{since:.0f} s",
        command,
    )


def _open_attempts(*, using: str) -> dict[tuple[UUID, int], tuple[str, Progress | None]]:
    """Return what open attempts wait for, and how far they have come: no more than there are slots."""
    found = JobAttempt.objects.using(using).filter(finished_at=None)
    rows = found.values_list("job", "number", "waiting_for", "progress")
    return {(job, number): (waits, progress_of(said)) for job, number, waits, said in rows}


def _values(job: ContainerJob) -> dict[str, object]:
    return {name: getattr(job, name) for name in ListedJob.__annotations__ if name not in _OF_THE_ATTEMPT}

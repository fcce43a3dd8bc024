"""Show what the queues hold and the workers run: live on a terminal, else once."""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from ..dashboard.workforce import OpenAttempt, workforce
from ..jobs.progress_lines import Progress, progress_of
from ..queue import Activity, QueueStatistics, activity_by_queue, counts_by_status, queue_statistics
from .finding import Refused, short_id
from .printing import Output, Terminal, bounded, cells, print_json, print_table, rich_table

_QUEUES = ("QUEUE", "DUE", "OLDEST", "LATER", "RUNNING", "RETRYING", "DONE/MIN", "FAILED/MIN", "")
_WORKERS = ("WORKER", "HOST", "LEASE", "SLOTS", "EXECUTORS", "RUNS")
_MINUTES = 5
_NOTHING = Activity(start=None)
# Of one worker.
_SHOWN = 5
_LEAST_SECONDS, _MOST_SECONDS = 0.5, 3600.0


class TopQueue(TypedDict):
    """A queue: counts go to 10,000; ended per minute are those of the last five minutes that are counted."""

    queue: str
    paused: bool
    due: int
    later: int
    oldest_seconds: float | None
    running: int
    retrying: int
    completed_per_minute: float
    failed_per_minute: float
    unserved: list[str]


class TopRun(TypedDict):
    """An open attempt, and for how long; ``waiting_for``: what its launch waits for, "" if for nothing.

    ``progress``: null if it has said nothing of it.
    """

    job: UUID
    name: str
    attempt: int
    executor: str
    seconds: float
    waiting_for: str
    progress: Progress | None


class TopWorker(TypedDict):
    """A worker; ``lease_seconds``: for how long its lease holds, below zero where it has expired."""

    id: str
    host: str
    pid: int
    lease_seconds: float
    slots: int
    executors: list[str]
    queues: list[str]
    engines_away: list[str]
    runs: list[TopRun]


class TopResult(TypedDict):
    """What there is now; ``orphans``: open attempts that no live worker has."""

    at: datetime
    jobs: dict[str, int]
    queues: list[TopQueue]
    workers: list[TopWorker]
    orphans: list[TopRun]


JSON = TopResult


class _Table(NamedTuple):
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="SECONDS", help="Between two looks. Default: %(default)s."
    )
    parser.add_argument("--once", action="store_true", help="Look once, on a terminal too.")
    parser.add_argument("--json", action="store_true", help="Look once and print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    interval = options["interval"]
    if not (math.isfinite(interval) and _LEAST_SECONDS <= interval <= _MOST_SECONDS):
        raise Refused(f"--interval is between {_LEAST_SECONDS:g} and {_MOST_SECONDS:g} seconds, not {interval}.")
    if options["json"]:
        print_json(out, top_result(using=options["database"]))
    elif isinstance(out, Terminal) and not options["once"]:
        _go_on(out, interval, using=options["database"])
    else:
        summary, tables = _shown(top_result(using=options["database"]))
        out.write(f"{summary}\n")
        for table in tables:
            out.write("\n")
            print_table(out, table.headings, table.rows)
    return 0


def top_result(*, using: str) -> TopResult:
    """Return what there is now: what counts are kept of and indexes serve, so that it costs as much with more jobs."""
    rates = activity_by_queue(since=timedelta(minutes=_MINUTES), using=using)
    # No finished jobs: those are in the rates.
    found = queue_statistics(since=timedelta(0), using=using)
    force = workforce(None, using=using)
    now = force.now
    queues: list[TopQueue] = [
        {
            "queue": name,
            "paused": entry.paused,
            "due": entry.queued,
            "later": entry.scheduled,
            "oldest_seconds": entry.oldest_seconds if entry.oldest is not None else None,
            "running": entry.running,
            "retrying": entry.retrying,
            "completed_per_minute": rates.get(name, _NOTHING).completed / _MINUTES,
            "failed_per_minute": rates.get(name, _NOTHING).failed / _MINUTES,
            "unserved": entry.unserved,
        }
        for name, entry in ((name, found.get(name, QueueStatistics(queue=name))) for name in sorted({*found, *rates}))
    ]
    workers: list[TopWorker] = [
        {
            "id": row.worker.pk,
            "host": row.worker.host,
            "pid": row.worker.pid,
            "lease_seconds": (row.worker.lease_expires_at - now).total_seconds(),
            "slots": row.worker.slots,
            "executors": row.worker.executors,
            "queues": row.worker.queues,
            "engines_away": sorted(row.worker.engines_away or ()),
            "runs": [_run(each, now) for each in row.attempts],
        }
        for row in force.rows
    ]
    jobs = {status.value: count for status, count in counts_by_status(using=using).items()}
    orphans = [_run(each, now) for each in force.orphans]
    return {"at": now, "jobs": jobs, "queues": queues, "workers": workers, "orphans": orphans}


def _run(attempt: OpenAttempt, now: datetime) -> TopRun:
    return {
        "job": attempt.job_id,
        "name": attempt.name or "",
        "attempt": attempt.number,
        "executor": attempt.executor,
        "seconds": max(0.0, (now - attempt.launched_at).total_seconds()),
        "waiting_for": attempt.waiting_for,
        "progress": progress_of(attempt.progress),
    }


def _go_on(out: Terminal, interval: float, *, using: str) -> None:
    """Show it until somebody presses Ctrl-C."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    try:
        with Live(console=out.console, screen=True, auto_refresh=False) as live:
            while True:
                summary, tables = _shown(top_result(using=using))
                parts: list[Any] = [Text(f"{summary}   (Ctrl-C ends this)")]
                for table in tables:
                    parts += [Text(""), rich_table(table.headings, cells(table.rows))]
                live.update(Group(*parts), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        pass


def _shown(found: TopResult) -> tuple[str, list[_Table]]:
    """Return a line of counts by status, and the tables of queues and workers."""
    summary = ", ".join(f"{bounded(count)} {status}" for status, count in found["jobs"].items())
    queues = [
        (
            each["queue"],
            bounded(each["due"]),
            _age(each["oldest_seconds"]),
            *map(bounded, (each["later"], each["running"], each["retrying"])),
            f"{each['completed_per_minute']:.3g}",
            f"{each['failed_per_minute']:.3g}",
            "; ".join([*(["paused"] if each["paused"] else []), *(f"no worker serves {e}" for e in each["unserved"])]),
        )
        for each in found["queues"]
    ]
    workers = [
        (
            f"{each['id']}",
            f"{each['host']}:{each['pid']}",
            "expired" if each["lease_seconds"] < 0 else f"{each['lease_seconds']:.0f} s",
            f"{len(each['runs'])}/{each['slots']}",
            ", ".join(f"{name} (away)" if name in each["engines_away"] else name for name in each["executors"]),
            _runs(each["runs"]),
        )
        for each in found["workers"]
    ]
    tables = [_Table(_QUEUES, queues), _Table(_WORKERS, workers)]
    if found["orphans"]:
        tables.append(_Table(("NO LIVE WORKER HAS",), [(_runs([each]),) for each in found["orphans"]]))
    return summary, tables


def _runs(runs: Sequence[TopRun]) -> str:
    shown = [f"{each['name'] or short_id(each['job'])} {_age(each['seconds'])}{_state(each)}" for each in runs[:_SHOWN]]
    return ", ".join(shown + ([f"{len(runs) - _SHOWN} more"] if len(runs) > _SHOWN else []))


def _state(run: TopRun) -> str:
    if run["waiting_for"]:
        return f" (waits for {run['waiting_for']})"
    return f" ({run['progress']})" if run["progress"] else ""


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, text in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {text}"
    return f"{seconds:.0f} s"

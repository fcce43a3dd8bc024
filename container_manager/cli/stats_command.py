"""Show what happened in the queues lately: how much, and how long jobs waited and ran."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, cast

from django.utils.timezone import is_naive, make_aware

from ..queue import Activity, activity, activity_by_queue, counts_by_status
from .finding import Refused
from .printing import Output, bounded, print_json, print_table
from .time_options import time_option

_COUNTS = ("queued", "started", "completed", "failed", "cancelled", "retried")
_PERCENTAGES = (50, 95)


class StatsRow(TypedDict):
    """What happened in a queue, or in a span of time; seconds are null where nothing waited or ran."""

    queue: str | None
    start: datetime | None
    queued: int
    started: int
    completed: int
    failed: int
    cancelled: int
    retried: int
    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None


class StatsResult(TypedDict):
    """Jobs by status as they are now, counted to 10,000, and what happened."""

    jobs: dict[str, int]
    activity: list[StatsRow]


JSON = StatsResult


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--since", default="1h", metavar="WHEN", help="2h (ago), or 2026-01-31T22:00. Default: %(default)s."
    )
    parser.add_argument("--step", type=int, metavar="MINUTES", help="A line for each span of so many minutes.")
    parser.add_argument("--queue", metavar="NAME", help="This queue only.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    using = options["database"]
    since = time_option("--since", options["since"], using=using)
    counts = counts_by_status(using=using)
    rows = [_row(name, each) for name, each in _found(options, since, using)]
    if options["json"]:
        print_json(out, StatsResult(jobs={status.value: count for status, count in counts.items()}, activity=rows))
        return 0
    out.write(", ".join(f"{bounded(count)} {status}" for status, count in counts.items()) + "\n\n")
    by_queue = options["step"] is None
    first = "QUEUE" if by_queue else "FROM (UTC)"
    times = [f"{kind} P{percent}" for kind in ("WAIT", "RUN") for percent in _PERCENTAGES]
    headings = (first, *(name.upper() for name in _COUNTS), *times)
    print_table(out, headings, [_cells(row, by_queue=by_queue) for row in rows])
    return 0


def _found(options: Mapping[str, Any], since: datetime, using: str) -> Sequence[tuple[str | None, Activity]]:
    name, step = options["queue"], options["step"]
    if step is None:
        by_queue = activity_by_queue(since=since, using=using)
        return [(queue, each) for queue, each in by_queue.items() if name in (None, queue)]
    try:
        spans = activity(since=since, step=timedelta(minutes=step), queue=name, using=using)
    except (ValueError, OverflowError) as error:
        raise Refused(f"--step: {error}") from error
    return [(name, span) for span in spans]


def _row(queue: str | None, each: Activity) -> StatsRow:
    seconds = {
        f"{kind}_p{percent}": histogram.percentile(percent)
        for kind, histogram in (("wait", each.wait), ("run", each.run))
        for percent in _PERCENTAGES
    }
    counts = {name: getattr(each, name) for name in _COUNTS}
    row: Any = {"queue": queue, "start": each.start, **counts, **seconds}
    return cast("StatsRow", row)


def _cells(row: StatsRow, *, by_queue: bool) -> list[object]:
    shown: Mapping[str, Any] = row
    label = row["queue"] if by_queue else minute(row["start"])
    times = [rounded_seconds(shown[f"{kind}_p{percent}"]) for kind in ("wait", "run") for percent in _PERCENTAGES]
    return [label, *(shown[name] for name in _COUNTS), *times]


def minute(moment: datetime | None) -> str:
    """Format a time in UTC to the minute; a naive one is in Django's default time zone."""
    if moment is None:
        return ""
    return (make_aware(moment) if is_naive(moment) else moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def rounded_seconds(value: float | None) -> str:
    """Format a duration: no more digits than its bucket is exact to."""
    return "" if value is None else f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"

"""What the database counts of the journal is what the rule, in plain Python, makes of the same rows, whatever they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from django.utils import timezone

from container_manager.jobs.histogram import BUCKET_SECONDS, BUCKETS, bucket_of
from container_manager.models import JOB_TRANSITIONS, ContainerJob, JobTransition, QueueSpan
from container_manager.store import aggregation
from container_manager.store.aggregation import Aggregation, minute_of

from .test_statistics import counted, total

pytestmark = pytest.mark.django_db(transaction=True)
_BEGIN = datetime(2024, 3, 31, 0, 58, 58, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COUNTED_AS = {
    "queued": "queued",
    "running": "started",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "retrying": "retried",
}
Spans = dict[tuple[int, str], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row of the journal."""

    job: ContainerJob
    source: str
    target: str
    at: datetime


def odd_duration(random: Random) -> timedelta:
    """Return nothing, a bound of the histogram or a microsecond beside it, any time, or a negative one."""
    bound = timedelta(seconds=random.choice(BUCKET_SECONDS))
    return random.choice(
        [
            timedelta(0),
            *(bound + beside for beside in (-_MICROSECOND, timedelta(0), _MICROSECOND)),
            timedelta(seconds=random.randrange(200)),
            timedelta(microseconds=random.randrange(200_000_000)),
            timedelta(microseconds=-random.randrange(5_000_000)),
        ]
    )


def odd_job(random: Random) -> ContainerJob:
    """Return a job of which nobody knows how it came to its times; one that was cancelled may have any."""

    def moment() -> datetime:
        return _BEGIN + random.choice([-1, 1]) * odd_duration(random)

    queued_at, scheduled_for = (random.choice([None, moment()]) for _ in range(2))
    return ContainerJob(
        command="true",
        status="cancelled",
        queue=random.choice(["a", "A", "a "]),
        created_at=moment(),
        queued_at=queued_at,
        scheduled_for=scheduled_for,
    )


def path(random: Random, job: ContainerJob) -> Iterator[Change]:
    """Yield what happened to a job: a walk along the map, of up to fifteen steps."""
    status, at = random.choice(["pending", "queued", "queued"]), _BEGIN
    for _ in range(random.randrange(1, 16)):
        targets = [str(target) for target in JOB_TRANSITIONS[status]]
        if not targets:
            return
        # Most are not cancelled, since nothing follows.
        target = random.choice([*[each for each in targets if each != "cancelled"] * 3, targets[-1]])
        at += odd_duration(random)
        yield Change(job=job, source=status, target=target, at=at)
        status = target


def mixed(random: Random, paths: Sequence[Iterator[Change]]) -> Iterator[Change]:
    """Yield the changes of all jobs, those of each in their order."""
    left = list(paths)
    while left:
        one = random.choice(left)
        change = next(one, None)
        if change is None:
            left.remove(one)
        else:
            yield change


def histories(seed: int) -> tuple[list[ContainerJob], list[Change]]:
    """Return jobs, and all that happened to them, in the order of the journal."""
    random = Random(seed)  # noqa: S311  # repeatable
    jobs = [odd_job(random) for _ in range(120)]
    return jobs, list(mixed(random, [path(random, job) for job in jobs]))


def store(jobs: Sequence[ContainerJob], changes: Sequence[Change]) -> None:
    ContainerJob.objects.bulk_create(jobs)
    JobTransition.objects.bulk_create(
        JobTransition(job=each.job, from_status=each.source, to_status=each.target, at=each.at) for each in changes
    )


def due_since(change: Change, before: Change | None) -> datetime | None:
    """Return since when a job that starts was due; None if that is not known any more."""
    job = change.job
    later = any(time is not None and time > change.at for time in (job.queued_at, job.scheduled_for))
    if later:
        return before.at if before is not None and before.source == "retrying" else None
    queued: datetime = before.at if before is not None else job.queued_at or job.created_at
    return max(queued, job.scheduled_for or queued)


def by_rule(changes: Sequence[Change]) -> Spans:
    """Return what the statistics must say of these changes, by minute and queue, without what is 0."""
    found: dict[tuple[int, str], Counter[str]] = {}
    lasted: dict[tuple[int, str, str], timedelta] = {}
    last: dict[ContainerJob, Change] = {}
    for change in changes:
        minute, queue_name, before = minute_of(change.at), change.job.queue, last.get(change.job)
        last[change.job] = change
        counts = found.setdefault((minute, queue_name), Counter())
        counts[_COUNTED_AS[change.target]] += 1
        since, kind = None, "run"
        if change.source == "running":
            since = before.at if before is not None else None
        elif (change.source, change.target) == ("queued", "running"):
            since, kind = due_since(change, before), "wait"
        if since is not None:
            duration = max(timedelta(0), change.at - since)
            counts[f"{kind}_{bucket_of(duration.total_seconds())}"] += 1
            key = (minute, queue_name, f"{kind}_seconds")
            lasted[key] = lasted.get(key, timedelta(0)) + duration
    spans: Spans = {key: dict(counts) for key, counts in found.items()}
    for (minute, queue_name, column), duration in lasted.items():
        spans[minute, queue_name][column] = pytest.approx(duration.total_seconds())
    return without_zeros(spans)


def without_zeros(spans: Spans) -> Spans:
    return {key: {name: value for name, value in counts.items() if value != 0} for key, counts in spans.items()}


def in_spans() -> Spans:
    spans: Spans = {}
    for row in QueueSpan.objects.filter(length=QueueSpan.MINUTE).values():
        key = (row.pop("minute"), row.pop("queue"))
        spans[key] = {name: value for name, value in row.items() if name not in ("id", "length", "created")}
    return without_zeros(spans)


@pytest.mark.parametrize("batch", [50, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_random_histories_are_counted_as_the_rule_in_python_says(
    seed: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregation, "BATCH", batch)
    jobs, changes = histories(seed)
    store(jobs, changes)
    keep = timezone.now() - _BEGIN + timedelta(days=365)
    counted(Aggregation(keep_seconds=keep.total_seconds(), using="default"))
    assert in_spans() == by_rule(changes)


def test_random_histories_have_every_bucket_and_durations_that_are_not_known() -> None:
    """Otherwise they would prove nothing."""
    columns, starts, waits = Counter[str](), 0, 0
    for seed in range(4):
        for counts in by_rule(histories(seed)[1]).values():
            columns.update(counts.keys())
            starts += counts.get("started", 0)
            waits += sum(value for name, value in counts.items() if name.startswith("wait_") and name[5:].isdigit())
    expected = {f"{kind}_{number}" for kind in ("wait", "run") for number in range(BUCKETS)}
    assert expected | set(_COUNTED_AS.values()) <= columns.keys()
    assert 0 < waits < starts


def test_durations_of_thousands_of_years_add_up() -> None:
    jobs = [ContainerJob(command="true", status="cancelled") for _ in range(60)]
    first, last = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
    store(
        jobs,
        [
            Change(job=job, source=source, target=target, at=at)
            for source, target, at in (("queued", "running", first), ("running", "failed", last))
            for job in jobs
        ],
    )
    counted()
    assert total(f"run_{BUCKETS - 1}") == 60
    assert total("run_seconds") == pytest.approx(60 * (last - first).total_seconds())

"""The statistics: what the maintainer counts from the journal is what the journal says, and each row is counted once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from django.utils import timezone

from container_manager import queue
from container_manager.jobs.histogram import BUCKET_SECONDS, BUCKETS, Histogram, bucket_of
from container_manager.jobs.identifiers import uuid7
from container_manager.models import (
    RUN_COLUMNS,
    WAIT_COLUMNS,
    ContainerJob,
    JobTransition,
    QueueMinute,
    StatisticsProgress,
)
from container_manager.store import aggregation
from container_manager.store.aggregation import Aggregation, first_key, minute_of

from .jobs import job_in
from .patience import PATIENCE_SECONDS
from .workers import start_worker

pytestmark = pytest.mark.django_db(transaction=True)
_DAY = 86400.0
_TARGETS = {
    "queued": "queued",
    "running": "started",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "retrying": "retried",
}


def counted(*aggregations: Aggregation) -> None:
    """Count until nothing is left: one pass marks what there is, the next counts it."""
    each = aggregations or (Aggregation(keep_seconds=30 * _DAY, using="default"),)
    for _ in range(3):
        while [counting for counting in each if counting.step()]:
            pass


def by_minute(*columns: str) -> dict[tuple[int, str], tuple[int, ...]]:
    """Return what is counted, by minute and queue."""
    rows = QueueMinute.objects.exclude(minute=QueueMinute.TOTAL)
    found = {(row["minute"], row["queue"]): tuple(row[name] for name in columns) for row in rows.values()}
    return {key: values for key, values in found.items() if any(values)}


def in_journal() -> dict[tuple[int, str], tuple[int, ...]]:
    """Count the journal, as `by_minute` of the transitions' columns."""
    found: dict[tuple[int, str], Counter[str]] = {}
    for row in JobTransition.objects.select_related("job"):
        found.setdefault((minute_of(row.at), row.job.queue), Counter())[_TARGETS[row.to_status]] += 1
    return {key: tuple(counts[name] for name in _TARGETS.values()) for key, counts in found.items()}


def total(column: str, queue_name: str = "default") -> Any:
    rows = QueueMinute.objects.filter(minute=QueueMinute.TOTAL, queue=queue_name)
    return rows.values_list(column, flat=True).first() or 0


def cancelled_jobs(count: int, **fields: Any) -> list[ContainerJob]:
    jobs = [job_in("queued", **fields) for _ in range(count)]
    for job in jobs:
        job.mark_as_cancelled()
    return jobs


def created(minutes_ago: int, count: int, **fields: Any) -> int:
    """Create queued jobs whose keys were made so long ago; return the minute of that."""
    minute = minute_of(timezone.now()) - minutes_ago
    for number in range(count):
        key = type(first_key(0))(int=first_key(minute).int + number)
        job_in("queued", id=key, **fields)
    return minute


@contextmanager
def in_a_thread(work: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Do work on a connection of its own; it has written when it sets its event, and may end at the end of the block."""
    written, may_end = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with transaction.atomic():
                work(written)
                written.set()
                assert may_end.wait(PATIENCE_SECONDS)
        except BaseException as error:
            errors.append(error)
            written.set()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert written.wait(PATIENCE_SECONDS)
        yield may_end
    finally:
        may_end.set()
        thread.join(PATIENCE_SECONDS)
    assert errors == []


def test_a_run_with_retries_cancels_and_failures_is_counted_as_the_journal_tells_it(tmp_path: Path) -> None:
    for name, command, retries in (
        ("a", "true", 0),
        ("a", "false", 2),
        ("b", "sh -c 'exit 3'", 0),
        ("b", "sleep 0.2", 0),
    ):
        for _ in range(3):
            queue.enqueue(command=command, queue=name, max_retries=retries)
    queue.enqueue(command="true", queue="b").mark_as_cancelled()
    log = tmp_path / "worker.log"
    # Each run ends when nothing is due; retries become due meanwhile.
    for _ in range(20):
        assert start_worker("--drain", log=log).wait(timeout=PATIENCE_SECONDS) == 0, log.read_text()
        if not ContainerJob.objects.filter(status__in=["queued", "running", "retrying"]).exists():
            break
    assert not ContainerJob.objects.filter(status__in=["queued", "running", "retrying"]).exists()
    counted()
    assert by_minute(*_TARGETS.values()) == in_journal()
    for name in ("a", "b"):
        journal = JobTransition.objects.filter(job__queue=name)
        ends = journal.filter(from_status="running").count()
        assert sum(total(column, name) for column in RUN_COLUMNS) == ends
        assert total("run_seconds", name) > 0
        waits = sum(total(column, name) for column in WAIT_COLUMNS)
        # The first wait of a job that was retried before it was counted is not known any more.
        retried = ContainerJob.objects.filter(queue=name, retry_count__gt=0).count()
        assert waits == total("started", name) - retried
    assert total("retried", "a") == 6
    assert total("failed", "a") == 9


def test_each_row_is_counted_once_by_several_workers_in_turn_and_after_a_restart() -> None:
    cancelled_jobs(5)
    two = [Aggregation(keep_seconds=_DAY, using="default") for _ in range(2)]
    counted(*two)
    cancelled_jobs(5)
    counted(*two)
    counted()
    assert total("cancelled") == 10
    assert by_minute("cancelled") == {key: values[4:5] for key, values in in_journal().items()}


def test_workers_that_race_to_count_count_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "BATCH", 7)
    cancelled_jobs(60)
    counted_by: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(20):
                while Aggregation(keep_seconds=_DAY, using="default").step():
                    pass
        except BaseException as error:
            counted_by.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert counted_by == []
    counted()
    assert total("cancelled") == 60


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_a_transition_that_is_committed_after_later_ones_were_is_counted() -> None:
    early, late = job_in("queued"), job_in("queued")
    counted()

    def cancel(_: threading.Event) -> None:
        early.mark_as_cancelled()

    with in_a_thread(cancel):
        late.mark_as_cancelled()
        counted()
    counted()
    assert total("cancelled") == 2
    assert list(JobTransition.objects.order_by("id").values_list("job", flat=True)) == [early.pk, late.pk]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_a_transaction_that_goes_on_for_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "LONGEST_WAIT_SECONDS", -1.0)
    early, late = job_in("queued"), job_in("queued")
    with in_a_thread(lambda _: early.mark_as_cancelled()):
        late.mark_as_cancelled()
        counted()
        assert total("cancelled") == 1


def test_a_long_backlog_is_counted_in_short_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "BATCH", 10)
    cancelled_jobs(35)
    counting = Aggregation(keep_seconds=_DAY, using="default")
    steps = 0
    totals = set()
    counting.step()
    counting.step()
    while counting.step():
        steps += 1
        totals.add(total("cancelled"))
    assert totals >= {10, 20, 30}
    assert total("cancelled") == 35


@pytest.mark.parametrize("left", [0, 3])
def test_the_journal_of_pruned_jobs_stays_counted_and_what_follows_is_counted_once(left: int) -> None:
    jobs = cancelled_jobs(10)
    counted()
    # The newest ones: SQLite gives their keys to the next rows.
    for job in jobs[left:]:
        ContainerJob.objects.filter(pk=job.pk).update(status_changed_at=timezone.now() - timedelta(days=9))
    assert queue.prune_jobs(before=timezone.now() - timedelta(days=8)) == 10 - left
    counted()
    assert total("cancelled") == 10
    cancelled_jobs(12)
    counted()
    assert total("cancelled") == 22


def test_enqueued_jobs_are_counted_in_the_minute_of_their_keys_once_it_is_over() -> None:
    Aggregation(keep_seconds=_DAY, using="default").step()
    minute = created(5, 3, queue="a")
    created(5, 0)
    created(4, 2, queue="b")
    job_in("pending", id=uuid7())
    queue.enqueue(command="true", queue="a")
    counted()
    assert by_minute("created") == {(minute, "a"): (3,), (minute + 1, "b"): (2,)}
    counted()
    assert (total("created", "a"), total("created", "b")) == (3, 2)


def test_jobs_that_began_as_pending_count_when_they_are_queued() -> None:
    minute = minute_of(timezone.now()) - 5
    job = job_in("pending", id=first_key(minute))
    job.mark_as_queued()
    counted()
    assert (total("created"), total("queued")) == (0, 1)


def test_jobs_that_a_long_transaction_enqueued_are_counted_an_hour_later() -> None:
    counting = Aggregation(keep_seconds=_DAY, using="default")
    minute = created(70, 2)
    counting.step()
    # As if it had been counted a minute after it: only then has a job been inserted.
    StatisticsProgress.objects.update(created_to=minute + 1)
    while counting.step():
        pass
    assert by_minute("created") == {(minute, "default"): (2,)}
    ContainerJob.objects.create(
        id=type(first_key(0))(int=first_key(minute).int + 9), status="queued", queued_at=timezone.now()
    )
    StatisticsProgress.objects.update(created_again_to=minute)
    counted(counting)
    assert by_minute("created") == {(minute, "default"): (3,)}
    assert total("created") == 3
    # Pruned meanwhile: what was counted stands.
    ContainerJob.objects.all().delete()
    StatisticsProgress.objects.update(created_again_to=minute)
    counted(counting)
    assert total("created") == 3


def test_a_minute_with_more_jobs_than_a_batch_is_counted_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "BATCH", 4)
    minute = created(90, 11)
    counted()
    assert by_minute("created") == {(minute, "default"): (11,)}
    assert total("created") == 11


def test_minutes_are_kept_as_long_as_the_setting_says_and_totals_for_ever() -> None:
    now = minute_of(timezone.now())
    for minute in (QueueMinute.TOTAL, now - 2 * 1440, now - 2 * 1440 - 2, now):
        QueueMinute.objects.create(minute=minute, queue="a", started=1)
    counting = Aggregation(keep_seconds=2 * _DAY + 60, using="default")
    assert counting.prune() is False
    assert set(QueueMinute.objects.values_list("minute", flat=True)) == {QueueMinute.TOTAL, now - 2 * 1440, now}


def test_a_journal_from_before_the_statistics_is_counted_without_minutes_that_are_too_old() -> None:
    cancelled_jobs(2)
    JobTransition.objects.update(at=F("at") - timedelta(days=40))
    cancelled_jobs(1)
    counted()
    assert total("cancelled") == 3
    assert sum(values[0] for values in by_minute("cancelled").values()) == 1


def test_a_wait_begins_when_the_job_is_due() -> None:
    now = timezone.now()
    scheduled = job_in("queued", queue="scheduled", scheduled_for=now - timedelta(seconds=20))
    plain = job_in("queued", queue="plain")
    ContainerJob.objects.filter(pk__in=[scheduled.pk, plain.pk]).update(queued_at=now - timedelta(hours=3))
    for job in (scheduled, plain):
        ContainerJob.objects.get(pk=job.pk).mark_as_running()
    counted()
    assert total(f"wait_{bucket_of(20.0)}", "scheduled") == 1
    assert total(f"wait_{bucket_of(3 * 3600.0)}", "plain") == 1


@pytest.mark.without_database
class TestHistogram:
    def test_a_percentile_is_in_the_bucket_of_its_duration(self) -> None:
        durations = [0.05] * 50 + [3.0] * 45 + [45.0] * 5
        counts = Counter(bucket_of(seconds) for seconds in durations)
        histogram = Histogram(counts=tuple(counts[n] for n in range(BUCKETS)), seconds=sum(durations))
        assert histogram.count == 100
        assert histogram.percentile(25) == pytest.approx(0.05)
        for percent, seconds in ((50, 0.05), (95, 3.0), (99, 45.0)):
            found = histogram.percentile(percent)
            assert found is not None
            assert bucket_of(found) == bucket_of(seconds)

    def test_no_durations_have_no_percentile_and_very_long_ones_count_as_the_highest_bound(self) -> None:
        assert Histogram().percentile(95) is None
        long = Histogram(counts=(*[0] * (BUCKETS - 1), 2), seconds=1e6)
        assert long.percentile(50) == BUCKET_SECONDS[-1]

    @pytest.mark.parametrize("percent", [-1, 101])
    def test_a_percentage_outside_of_0_to_100_is_refused(self, percent: float) -> None:
        with pytest.raises(ValueError, match="from 0 to 100"):
            Histogram().percentile(percent)

    def test_a_bound_belongs_to_its_bucket(self) -> None:
        assert [bucket_of(seconds) for seconds in (0.0, 0.1, 0.11, 86400.0, 86401.0)] == [
            0,
            0,
            1,
            BUCKETS - 2,
            BUCKETS - 1,
        ]

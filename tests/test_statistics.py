"""The statistics: what the maintainer counts from the journal is what the journal says, and each row is counted once."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from container_manager import queue
from container_manager.conf import AppSettings
from container_manager.jobs.histogram import BUCKET_SECONDS, BUCKETS, Histogram, bucket_of
from container_manager.jobs.identifiers import uuid7
from container_manager.models import (
    RUN_COLUMNS,
    WAIT_COLUMNS,
    ContainerJob,
    JobTransition,
    QueueSpan,
    StatisticsProgress,
)
from container_manager.store import aggregation
from container_manager.store.aggregation import Aggregation, first_key, minute_of
from container_manager.worker.maintenance import Maintenance

from .jobs import job_in
from .polling import PATIENCE_SECONDS, eventually
from .span_counts import add_counts
from .typed_commands import typed
from .workers import start_worker, worker

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
    rows = QueueSpan.objects.filter(length=QueueSpan.MINUTE)
    found = {(row["minute"], row["queue"]): tuple(row[name] for name in columns) for row in rows.values()}
    return {key: values for key, values in found.items() if any(values)}


def in_journal() -> dict[tuple[int, str], tuple[int, ...]]:
    """Count the journal, as `by_minute` of the transitions' columns."""
    found: dict[tuple[int, str], Counter[str]] = {}
    for row in JobTransition.objects.select_related("job"):
        found.setdefault((minute_of(row.at), row.job.queue), Counter())[_TARGETS[row.to_status]] += 1
    return {key: tuple(counts[name] for name in _TARGETS.values()) for key, counts in found.items()}


def total(column: str, queue_name: str = "default") -> Any:
    rows = QueueSpan.objects.filter(length=QueueSpan.TOTAL, queue=queue_name)
    return rows.values_list(column, flat=True).first() or 0


def cancelled_jobs(count: int, **fields: Any) -> list[ContainerJob]:
    jobs = [job_in("queued", **fields) for _ in range(count)]
    for job in jobs:
        job.mark_as_cancelled()
    return jobs


def created(minutes_ago: int, count: int, **fields: Any) -> int:
    """Create queued jobs whose keys were made so long ago; return the minute of that."""
    return created_in(minute_of(timezone.now()) - minutes_ago, count, **fields)


def created_in(minute: int, count: int, **fields: Any) -> int:
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


@pytest.mark.slow
def test_retries_cancels_and_failures_are_counted_as_in_the_journal(tmp_path: Path) -> None:
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


def test_the_maintaining_worker_counts_one_batch_per_round() -> None:
    cancelled_jobs(1)
    maintenance = Maintenance(AppSettings(), using="default")
    # The first step begins, the second marks what there is.
    for _ in range(2):
        maintenance.run("w", {}, retries_are_due=False)
    assert StatisticsProgress.objects.get().marked_to == JobTransition.objects.get().pk
    counted()
    assert total("cancelled") == 1


@pytest.mark.slow
def test_a_running_worker_counts_statistics(tmp_path: Path) -> None:
    queue.enqueue(command="true")
    with worker(log=tmp_path / "worker.log"):
        eventually(lambda: total("completed") == 1)
    assert (total("started"), total(f"run_{BUCKETS - 1}")) == (1, 0)


def test_each_row_is_counted_once_by_several_workers_in_turn_and_after_a_restart() -> None:
    cancelled_jobs(5)
    two = [Aggregation(keep_seconds=_DAY, using="default") for _ in range(2)]
    counted(*two)
    cancelled_jobs(5)
    counted(*two)
    counted()
    assert total("cancelled") == 10
    assert by_minute("cancelled") == {key: values[4:5] for key, values in in_journal().items()}


def test_workers_that_race_to_count_while_others_write_count_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "BATCH", 7)
    jobs = [job_in("queued") for _ in range(60)]
    errors: list[BaseException] = []
    written = threading.Event()

    def apart(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def count() -> None:
        while not written.is_set():
            Aggregation(keep_seconds=_DAY, using="default").step()

    def write(mine: Sequence[ContainerJob]) -> None:
        for pair in zip(mine[::2], mine[1::2], strict=True):
            with transaction.atomic():
                for job in pair:
                    job.mark_as_cancelled()

    counting = [apart(count) for _ in range(2)]
    for thread in [apart(partial(write, jobs[start::2])) for start in range(2)]:
        thread.join(PATIENCE_SECONDS)
    written.set()
    for thread in counting:
        thread.join(PATIENCE_SECONDS)
    assert errors == []
    counted()
    assert total("cancelled") == 60
    assert by_minute(*_TARGETS.values()) == in_journal()


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
def test_a_transaction_that_has_written_no_journal_is_not_waited_for() -> None:
    with in_a_thread(lambda _: queue.pause_queue("mail")):
        job_in("queued").mark_as_cancelled()
        counted()
        assert total("cancelled") == 1


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
def test_the_journal_of_pruned_jobs_stays_counted_and_later_entries_are_counted_once(left: int) -> None:
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
    created_in(minute + 1, 2, queue="b")
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


def test_spans_are_kept_as_long_as_the_setting_says_and_totals_for_ever() -> None:
    now = minute_of(timezone.now())
    # In the middle of an hour, whatever the clock says, and far from the minute that may go by meanwhile.
    oldest = now - 2 * 1440 - now % 60 + 30
    hour = oldest - 30
    for minute in (oldest + 2, oldest - 2, hour - 1, now):
        add_counts(minute, "a", started=1)
    counting = Aggregation(keep_seconds=(now - oldest) * 60, using="default")
    assert counting.prune() is False
    kept = set(QueueSpan.objects.values_list("length", "minute"))
    assert kept == {(QueueSpan.TOTAL, 0), (QueueSpan.MINUTE, oldest + 2), (QueueSpan.MINUTE, now)} | {
        (QueueSpan.HOUR, minute) for minute in (hour, now - now % 60)
    }
    assert total("started", "a") == 4


def test_a_journal_from_before_the_statistics_is_counted_without_minutes_that_are_too_old() -> None:
    cancelled_jobs(2)
    JobTransition.objects.update(at=F("at") - timedelta(days=40))
    cancelled_jobs(1)
    counted()
    assert total("cancelled") == 3
    assert sum(values[0] for values in by_minute("cancelled").values()) == 1


@pytest.mark.parametrize("year", [1903, 2200, 9000])
def test_rows_with_odd_times_are_in_the_totals_and_hold_up_no_others(year: int) -> None:
    cancelled_jobs(1)
    JobTransition.objects.update(at=datetime(year, 5, 6, tzinfo=UTC))
    cancelled_jobs(1)
    counted()
    assert total("cancelled") == 2
    assert sum(values[0] for values in by_minute("cancelled").values()) == 1


def test_an_error_while_counting_statistics_is_logged_and_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    cancelled_jobs(1)

    def refuse(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if sql.startswith("INSERT") and QueueSpan._meta.db_table in sql:
            raise IntegrityError("a constraint of the project's own")
        return execute(sql, *args)

    counting = Aggregation(keep_seconds=_DAY, using="default")
    # It begins, and marks what there is.
    counting.step()
    counting.step()
    maintenance = Maintenance(AppSettings(), using="default")
    with connection.execute_wrapper(refuse):
        for _ in range(2):
            maintenance.run("w", {}, retries_are_due=False)
    assert caplog.text.count("Statistics cannot be counted") == 1
    counted()
    assert total("cancelled") == 1


def test_the_waiting_time_of_a_job_begins_when_it_is_due() -> None:
    now = timezone.now()
    scheduled = job_in("queued", queue="scheduled", scheduled_for=now - timedelta(seconds=20))
    plain = job_in("queued", queue="plain")
    ContainerJob.objects.filter(pk__in=[scheduled.pk, plain.pk]).update(queued_at=now - timedelta(hours=3))
    for job in (scheduled, plain):
        ContainerJob.objects.get(pk=job.pk).mark_as_running()
    counted()
    assert total(f"wait_{bucket_of(20.0)}", "scheduled") == 1
    assert total(f"wait_{bucket_of(3 * 3600.0)}", "plain") == 1


def add_minutes(*rows: tuple[int, str, dict[str, Any]]) -> None:
    """Store what was counted in minutes, each so many before now."""
    now = minute_of(timezone.now())
    for ago, name, counts in rows:
        add_counts(now - ago, name, **counts)


def add_totals(*names: str) -> None:
    """Let the statistics know these queues."""
    for name in names:
        add_counts(0, name, kept=False)


class TestActivity:
    def test_activity_sums_minutes_in_spans_and_leaves_no_minute_out(self) -> None:
        add_minutes(
            (90, "a", {"started": 9}), (31, "a", {"started": 1}), (30, "b", {"started": 2, "created": 5, "queued": 1})
        )
        # The totals are no span of time.
        add_counts(0, "a", kept=False, started=1000)
        spans = queue.activity(since=timedelta(hours=1), step=timedelta(minutes=10))
        assert sum(span.started for span in spans) == 3
        assert sum(span.queued for span in spans) == 6
        starts = [span.start for span in spans if span.start is not None]
        assert len(starts) == len(spans)
        assert {later - earlier for earlier, later in pairwise(starts)} == {timedelta(minutes=10)}
        assert all(start.minute % 10 == 0 for start in starts)
        assert starts[0] <= timezone.now() - timedelta(minutes=60)
        assert starts[-1] <= timezone.now()

    def test_activity_can_be_limited_to_one_queue_and_one_span(self) -> None:
        add_minutes((5, "a", {"failed": 1, "retried": 1}), (5, "b", {"failed": 2}), (200, "a", {"failed": 4}))
        [span] = queue.activity(since=timedelta(hours=1), queue="a")
        assert (span.failed, span.retried) == (1, 1)
        since = timezone.now() - timedelta(minutes=20)
        assert queue.activity(since=since)[0].failed == 3
        assert queue.activity(since=since, queue="none")[0].failed == 0

    def test_activity_by_queue_covers_a_recent_period_or_all_time(self) -> None:
        bucket = f"run_{bucket_of(2.0)}"
        add_minutes((5, "a", {"completed": 2, bucket: 2, "run_seconds": 4.0}), (500, "b", {"completed": 1}))
        add_counts(0, "b", kept=False, completed=69)
        found = queue.activity_by_queue(since=timedelta(hours=1))
        assert {name: each.completed for name, each in found.items()} == {"a": 2}
        assert (found["a"].run.count, found["a"].run.seconds) == (2, 4.0)
        totals = queue.activity_by_queue(since=None)
        assert {name: (each.start, each.completed) for name, each in totals.items()} == {
            "a": (None, 2),
            "b": (None, 70),
        }

    @pytest.mark.parametrize("step", [None, 30, 60, 180])
    def test_spans_add_up_to_what_happened_in_their_minutes_wherever_hours_serve(self, step: int | None) -> None:
        for ago in (0, 1, 59, 61, 200, 1000, 2880, 2881, 2940, 3100):
            add_minutes((ago, "a", {"started": ago + 1}), (ago, "b", {"started": 10_000}))
        # A time, since a minute may end between two that ask for two days until now.
        since = timezone.now() - timedelta(days=2)
        spans = queue.activity(since=since, step=None if step is None else timedelta(minutes=step), queue="a")
        minutes = QueueSpan.objects.filter(length=QueueSpan.MINUTE, queue="a").values_list("minute", "started")
        begins = [minute_of(span.start) for span in spans if span.start is not None]
        ends = [*begins[1:], sys.maxsize]
        expected = [
            sum(started for minute, started in minutes if begin <= minute < end)
            for begin, end in zip(begins, ends, strict=True)
        ]
        assert [span.started for span in spans] == expected
        assert sum(expected) > 0
        if step is None:
            assert queue.activity_by_queue(since=since)["a"].started == expected[0]

    @pytest.mark.parametrize(
        ("step", "words"),
        [
            (timedelta(seconds=30), "whole minutes"),
            (timedelta(0), "whole minutes"),
            (timedelta(minutes=1), "longer step"),
        ],
    )
    def test_an_invalid_step_of_activity_is_refused_with_advice(self, step: timedelta, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            queue.activity(since=timedelta(days=10), step=step)


class TestCounts:
    def test_counts_by_status_stop_at_their_limit(self) -> None:
        for status in ("pending", "running", "completed", "failed", "cancelled", "retrying"):
            job_in(status)
        for number in range(4):
            job_in("queued", scheduled_for=timezone.now() + timedelta(hours=number) if number % 2 else None)
        counts = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled", "retrying"), 1)
        assert queue.counts_by_status() == {**counts, "queued": 4}
        assert queue.counts_by_status(limit=3) == {**counts, "queued": 3}

    def test_statistics_of_queues_stop_at_their_limit_and_still_find_the_oldest_job(self) -> None:
        now = timezone.now()
        for priority, hours in ((90, 1), (90, 2), (50, 9), (10, 5)):
            job = job_in("queued", priority=priority)
            ContainerJob.objects.filter(pk=job.pk).update(queued_at=now - timedelta(hours=hours))
        for hours in (-3, -2, 1, 2, 3):
            job_in("queued", queue="later", scheduled_for=now + timedelta(hours=hours))
        found = queue.queue_statistics(limit=2)
        assert (found["default"].queued, found["later"].queued, found["later"].scheduled) == (2, 2, 2)
        for name, ago in (("default", 9), ("later", 3)):
            oldest = found[name].oldest
            assert oldest is not None
            assert abs(oldest - (now - timedelta(hours=ago))) < timedelta(minutes=10)
        assert queue.queue_statistics()["later"].scheduled == 3

    def test_counts_of_many_queues_take_as_many_statements_as_those_of_few(self) -> None:
        later, asked = timezone.now() + timedelta(hours=1), list[int]()
        for names in ([f"q{n}" for n in range(3)], [f"q{n}" for n in range(3, 30)]):
            ContainerJob.objects.bulk_create(
                ContainerJob(command="true", status="queued", queue=name, queued_at=later, scheduled_for=due)
                for name in names
                for due in (None, None, later, later)
            )
            # As the maintainer has counted them.
            add_totals(*names)
            with CaptureQueriesContext(connection) as queries:
                found = queue.queue_statistics(limit=2)
            assert {(entry.queued, entry.scheduled) for entry in found.values()} == {(2, 2)}
            assert found.keys() >= set(names)
            asked.append(len(queries))
        assert asked[0] == asked[1]

    def test_queues_that_the_statistics_do_not_know_yet_are_counted(self) -> None:
        for name in ("a", "b", "d", "e", "g"):
            job_in("queued", queue=name)
        job_in("queued", queue="d", executor="other", scheduled_for=timezone.now() + timedelta(hours=1))
        add_totals("b", "c", "e")
        found = queue.queue_statistics()
        assert {name: (entry.queued, entry.scheduled) for name, entry in found.items()} == {
            "a": (1, 0), "b": (1, 0), "d": (1, 1), "e": (1, 0), "g": (1, 0),
        }  # fmt: skip

    @pytest.mark.parametrize("scheduled", [False, True])
    @pytest.mark.parametrize("oldest", [0, 2, 100])
    def test_the_oldest_job_is_found_whatever_its_priority(self, oldest: int, *, scheduled: bool) -> None:
        now = timezone.now()
        jobs = []
        for priority in (0, 1, 2, 3, 5, 40, 41, 99, 100):
            since = now - timedelta(hours=9 if priority == oldest else 1)
            due = since if scheduled else None
            jobs.append(
                ContainerJob(command="true", status="queued", priority=priority, queued_at=since, scheduled_for=due)
            )
        ContainerJob.objects.bulk_create(jobs)
        assert queue.queue_statistics(limit=1)["default"].oldest == now - timedelta(hours=9)


def test_the_command_stats_shows_what_happened_by_queue_and_in_spans() -> None:
    bucket = f"wait_{bucket_of(3.0)}"
    add_minutes((3, "mail", {"started": 2, "failed": 1, bucket: 2, "wait_seconds": 6.0}), (200, "old", {"started": 7}))
    job_in("failed")
    shown = typed("stats")
    assert (shown.returncode, shown.stderr) == (0, "")
    counts, _, heading, row = shown.stdout.splitlines()
    assert "1 failed" in counts.split(", ")
    assert heading.split()[:4] == ["QUEUE", "QUEUED", "STARTED", "COMPLETED"]
    assert row.split()[:5] == ["mail", "0", "2", "0", "1"]
    result = json.loads(typed("stats", "--json", "--since", "5h", "--step", "60").stdout)
    assert result["jobs"]["failed"] == 1
    assert sum(span["started"] for span in result["activity"]) == 9
    assert len(result["activity"]) == 6
    assert 2.5 < max(span["wait_p95"] or 0 for span in result["activity"]) <= 5.0


@pytest.mark.without_database
@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--step", "0"], ["--step", "1", "--since", "100d"]])
def test_the_command_stats_refuses_invalid_arguments_in_one_sentence(words: list[str]) -> None:
    refused = typed("stats", *words)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert words[0] in refused.stderr


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

    def test_an_empty_histogram_has_no_percentile_and_very_long_durations_count_as_the_highest_bound(self) -> None:
        assert Histogram().percentile(95) is None
        long = Histogram(counts=(*[0] * (BUCKETS - 1), 2), seconds=1e6)
        assert long.percentile(50) == BUCKET_SECONDS[-1]

    @pytest.mark.parametrize("percent", [-1, 101])
    def test_a_percentage_outside_of_0_to_100_is_refused(self, percent: float) -> None:
        with pytest.raises(ValueError, match="from 0 to 100"):
            Histogram().percentile(percent)

    def test_the_upper_bound_of_a_histogram_bucket_belongs_to_it(self) -> None:
        assert [bucket_of(seconds) for seconds in (0.0, 0.1, 0.11, 86400.0, 86401.0)] == [
            0,
            0,
            1,
            BUCKETS - 2,
            BUCKETS - 1,
        ]

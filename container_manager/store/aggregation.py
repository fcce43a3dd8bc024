"""Count the journal into `QueueSpan`: each of its rows once, a batch at a time.

Rows are found by their keys, which ascend, so what is counted is not read again. But a transaction may commit rows with
lower keys than those that others have committed before. So the highest key is marked first, and rows up to the mark are
counted when every transaction has ended that had written the journal then: PostgreSQL tells that by its transaction ids
and the locks on the journal, MariaDB and MySQL by the locks on such rows, and SQLite has one writer at a time. A
transaction that goes on for `LONGEST_WAIT_SECONDS` is waited for no longer, and what it commits later is not counted.

A job is enqueued without a row in the journal. New jobs are counted by the time in their keys: those of a minute soon
after it is over, and again after an hour, for transactions that took so long. The higher number stands.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connections, transaction
from django.db.models import OuterRef, Subquery

from ..models import ContainerJob, JobStatus, JobTransition, QueueSpan, StatisticsProgress
from ..querysets import ContainerJobQuerySet
from .clock import database_now
from .sql import store_sql
from .transition_counts import TransitionCount, transition_counts

BATCH = 2000
LONGEST_WAIT_SECONDS = 600.0
# How long after its end the new jobs of a minute are counted, since clocks differ, and counted again.
_CREATED_AFTER = {"created_to": timedelta(seconds=30), "created_again_to": timedelta(hours=1)}
_MINUTES_AT_ONCE = 5
# Clocks differ; but a row may have any time.
_MINUTES_AHEAD = 1440
_KEY = ("length", "minute", "queue")
_COUNTS = [column.name for column in QueueSpan._meta.concrete_fields if column.name not in ("id", *_KEY)]
_KEPT = (QueueSpan.MINUTE, QueueSpan.HOUR)
_COLUMNS: Mapping[str, str] = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "started",
    JobStatus.COMPLETED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
    JobStatus.RETRYING: "retried",
}
_POSITION = ("counted_to", "marked_to", "mark")
# By column, what to add.
Added = Counter[str]
Key = tuple[int, str]


@dataclass(slots=True, kw_only=True)
class _Created:
    """The new jobs of a minute, by queue, as far as they are counted: up to those before ``key``."""

    minute: int
    key: uuid.UUID
    queues: Counter[str] = field(default_factory=Counter)


class Aggregation:
    """Counts what is new, in short steps. Several workers may try at the same time: one of them counts."""

    def __init__(self, *, keep_seconds: float, using: str) -> None:
        self._keep, self._using = timedelta(seconds=keep_seconds), using
        self._created: dict[str, _Created] = {}

    def step(self) -> bool:
        """Count a batch of the journal and of new jobs; return whether there is more to count at once."""
        now = database_now(using=self._using)
        progress = self._progress()
        if progress is None:
            self._begin(now)
            return True
        more = self._count_transitions(progress, now)
        for column in _CREATED_AFTER:
            for _ in range(_MINUTES_AT_ONCE):
                if not self._count_created(column, progress, now):
                    break
            else:
                more = True
        return more

    def prune(self) -> bool:
        """Delete a batch of the spans that are older than what is kept; return whether there may be more."""
        oldest = self._oldest(database_now(using=self._using))
        spans = QueueSpan.objects.using(self._using)
        more = False
        for length in _KEPT:
            old = spans.filter(length=length, minute__lte=oldest - length)
            keys = list(old.order_by("minute").values_list("pk", flat=True)[:BATCH])
            if keys:
                spans.filter(pk__in=keys)._raw_delete(self._using)
            more = more or len(keys) == BATCH
        return more

    def _oldest(self, now: datetime) -> int:
        return max(1, minute_of(now - self._keep))

    def _progress(self) -> StatisticsProgress | None:
        return StatisticsProgress.objects.using(self._using).filter(pk=1).first()

    def _locked_progress(self) -> StatisticsProgress | None:
        """Return the progress, locked until the transaction ends; None if another worker counts at this moment."""
        rows = StatisticsProgress.objects.using(self._using).select_for_update(skip_locked=True)
        return rows.filter(pk=1).first()

    def _begin(self, now: datetime) -> None:
        first = self._oldest(now)
        progress = StatisticsProgress(pk=1, created_to=first, created_again_to=first)
        StatisticsProgress.objects.using(self._using).bulk_create([progress], ignore_conflicts=True)

    # -- transitions ---------------------------------------------------------------------------------------------

    def _count_transitions(self, seen: StatisticsProgress, now: datetime) -> bool:
        sql = store_sql(connections[self._using])
        # Before the transaction: whoever wrote what has a key up to this one has a lower transaction id than it.
        newest = JobTransition.objects.using(self._using).order_by("-id").values_list("id", flat=True).first() or 0
        replaced = sql.reuses_keys and self._is_replaced(seen)
        if newest <= seen.counted_to == seen.marked_to and not replaced:
            return False
        # Before the transaction too: at any isolation level it sees what has been committed by then.
        settled = seen.marked_to > seen.counted_to and self._is_settled(seen, now)
        with transaction.atomic(using=self._using):
            progress = self._locked_progress()
            if progress is None or any(getattr(progress, name) != getattr(seen, name) for name in _POSITION):
                return False
            more = False
            if replaced:
                self._rewind(progress)
            if settled and progress.marked_to > progress.counted_to:
                more = self._count_batch(progress, now)
            if progress.marked_to <= progress.counted_to < newest:
                with connections[self._using].cursor() as cursor:
                    progress.mark = sql.transaction_mark(cursor)
                progress.marked_to, progress.marked_at = newest, now
            progress.save(using=self._using)
        return more

    def _is_settled(self, progress: StatisticsProgress, now: datetime) -> bool:
        """Tell whether the transactions have ended that were under way at the mark, or are waited for no longer."""
        if progress.marked_at is None or now - progress.marked_at > timedelta(seconds=LONGEST_WAIT_SECONDS):
            return True
        connection = connections[self._using]
        with connection.cursor() as cursor:
            return store_sql(connection).is_settled(
                cursor, progress.mark, after=progress.counted_to, to=progress.marked_to, limit=BATCH
            )

    def _is_replaced(self, progress: StatisticsProgress) -> bool:
        """Tell whether the last row that was counted is gone: SQLite may then have given its key to another."""
        rows = JobTransition.objects.using(self._using).filter(pk=progress.counted_to)
        return progress.counted_to > 0 and not rows.filter(at__lte=progress.counted_at).exists()

    def _rewind(self, progress: StatisticsProgress) -> None:
        """Go back to the last row that is counted and still there."""
        rows = JobTransition.objects.using(self._using).filter(pk__lte=progress.counted_to, at__lte=progress.counted_at)
        progress.counted_to = rows.order_by("-id").values_list("id", flat=True).first() or 0
        progress.marked_to = progress.counted_to

    def _count_batch(self, progress: StatisticsProgress, now: datetime) -> bool:
        found = transition_counts(after=progress.counted_to, to=progress.marked_to, limit=BATCH, using=self._using)
        counts: dict[Key, Added] = {}
        for each in found:
            counts.setdefault((minute_of(each.latest), each.queue), Counter()).update(_added(each))
        self._store(counts, now)
        full = sum(each.rows for each in found) == BATCH
        progress.counted_to = max(each.last for each in found) if full else progress.marked_to
        progress.counted_at = max((each.latest for each in found), default=progress.counted_at)
        return full

    # -- new jobs ------------------------------------------------------------------------------------------------

    def _count_created(self, column: str, seen: StatisticsProgress, now: datetime) -> bool:
        """Count a batch of the first minute that is over and has new jobs; return whether there may be more."""
        first: int = getattr(seen, column)
        part = self._created.pop(column, None)
        if part is None or part.minute < first:
            # Or another worker has counted it meanwhile.
            over = minute_of(now - _CREATED_AFTER[column])
            oldest = self._jobs(first_key(first), first_key(over)).values_list("pk", flat=True).first()
            if oldest is None:
                return False
            minute = _minute_in(oldest)
            # MariaDB sorts ids that are not of version 7 by other digits.
            minute = minute if first <= minute < over else first
            part = _Created(minute=minute, key=first_key(minute))
        journal = JobTransition.objects.using(self._using).filter(job=OuterRef("pk")).order_by("id")
        jobs = self._jobs(part.key, first_key(part.minute + 1)).annotate(
            first_left=Subquery(journal.values("from_status")[:1])
        )
        batch = list(jobs.values("pk", "queue", "status", "first_left")[:BATCH])
        # Others have begun as pending: their journal says when they were queued.
        part.queues.update(row["queue"] for row in batch if (row["first_left"] or row["status"]) == JobStatus.QUEUED)
        if len(batch) == BATCH:
            part.key = uuid.UUID(int=batch[-1]["pk"].int + 1)
            self._created[column] = part
            return True
        return self._store_created(column, seen, part, now)

    def _jobs(self, key: uuid.UUID, end: uuid.UUID) -> ContainerJobQuerySet:
        return ContainerJob.objects.using(self._using).filter(pk__gte=key, pk__lt=end).order_by("pk")

    def _store_created(self, column: str, seen: StatisticsProgress, part: _Created, now: datetime) -> bool:
        with transaction.atomic(using=self._using):
            progress = self._locked_progress()
            if progress is None or getattr(progress, column) != getattr(seen, column):
                return False
            spans = QueueSpan.objects.using(self._using).filter(length=QueueSpan.MINUTE, minute=part.minute)
            known = dict(spans.filter(queue__in=list(part.queues)).values_list("queue", "created"))
            self._store(
                {
                    (part.minute, queue): Counter(created=count - known.get(queue, 0))
                    for queue, count in part.queues.items()
                    if count > known.get(queue, 0)
                },
                now,
            )
            for each in (progress, seen):
                setattr(each, column, part.minute + 1)
            progress.save(using=self._using, update_fields=[column])
        return True

    # -- what is stored ------------------------------------------------------------------------------------------

    def _store(self, counts: Mapping[Key, Added], now: datetime) -> None:
        kept = range(self._oldest(now), minute_of(now) + _MINUTES_AHEAD)
        add_to_spans(counts, kept=kept, using=self._using)


def add_to_spans(counts: Mapping[Key, Added], *, kept: range, using: str) -> None:
    """Add what happened in minutes, by minute and queue, to these, to their hours, and to the totals of their queues.

    To the totals alone where a minute is not among the ``kept``: too old, or to come.
    """
    added: dict[tuple[int, int, str], Added] = {}
    for (minute, queue), columns in counts.items():
        added.setdefault((QueueSpan.TOTAL, 0, queue), Counter()).update(columns)
        for length in _KEPT if minute in kept else ():
            added.setdefault((length, minute - minute % length, queue), Counter()).update(columns)
    if not added:
        return
    spans = QueueSpan.objects.using(using)
    asked = {f"{name}__in": {key[place] for key in added} for place, name in enumerate(_KEY)}
    rows = {(row.length, row.minute, row.queue): row for row in spans.filter(**asked)}
    for key, columns in added.items():
        row = rows.setdefault(key, QueueSpan(**dict(zip(_KEY, key, strict=True))))
        for name, value in columns.items():
            setattr(row, name, getattr(row, name) + value)
        # Found again by its key.
        row.pk = None
    names = connections[using].features.supports_update_conflicts_with_target
    spans.bulk_create(
        [rows[key] for key in added],
        update_conflicts=True,
        unique_fields=_KEY if names else None,
        update_fields=_COUNTS,
    )


def uncounted_rows(*, using: str) -> int:
    """Return how many rows of the journal are not counted yet, roughly: keys may have gaps."""
    counted = StatisticsProgress.objects.using(using).filter(pk=1).values_list("counted_to", flat=True).first() or 0
    newest = JobTransition.objects.using(using).order_by("-id").values_list("id", flat=True).first() or 0
    return max(0, newest - counted)


def minute_of(at: datetime) -> int:
    """Return the minute that holds a time, in whole minutes since 1970."""
    return int(at.timestamp() // 60)


def first_key(minute: int) -> uuid.UUID:
    """Return the least key that a job created in a minute can have."""
    return uuid.UUID(int=minute * 60_000 << 80 | 0x7 << 76 | 0b10 << 62)


def _minute_in(key: uuid.UUID) -> int:
    return (key.int >> 80) // 60_000


def _added(count: TransitionCount) -> Added:
    """Return what transitions of the journal add to their minute."""
    added: Added = Counter()
    if count.to_status in _COLUMNS:
        added[_COLUMNS[count.to_status]] = count.rows
    if count.bucket is not None:
        kind = "run" if count.from_status == JobStatus.RUNNING else "wait"
        added[f"{kind}_{count.bucket}"] = count.rows
        added[f"{kind}_seconds"] = count.microseconds / 1e6  # type: ignore[assignment]  # a sum of floats beside the counts
    return added

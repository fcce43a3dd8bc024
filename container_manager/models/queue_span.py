"""The table of what happened in each queue in each span of time, and how far that is counted."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from ..jobs.histogram import BUCKETS
from ..jobs.printable import escaped
from ..name_field import NameField


class QueueSpan(models.Model):
    """What happened in a queue in a span of time, as the maintainer has counted it from the journal.

    ``length``: `MINUTE` or `HOUR`, in minutes, or `TOTAL`: the queue's totals since the beginning, which are never
    pruned. ``minute``: when it begins, in whole minutes since 1970 in UTC; 0 for the totals.
    ``created``: jobs that were enqueued, by the time in their keys. The other counts are of transitions, by their
    target: ``queued`` are retries, and pending jobs that were queued. ``failed`` is about attempts: those that were
    retried are in it, and in ``retried`` too.
    ``wait_…`` and ``run_…``: how many attempts waited and ran for how long, by bucket (`jobs.histogram`), and the sums.
    """

    TOTAL: ClassVar[int] = 0
    MINUTE: ClassVar[int] = 1
    HOUR: ClassVar[int] = 60

    length = models.PositiveSmallIntegerField()
    minute = models.PositiveIntegerField()
    queue = NameField(max_length=64)
    created = models.PositiveBigIntegerField(default=0)
    queued = models.PositiveBigIntegerField(default=0)
    started = models.PositiveBigIntegerField(default=0)
    completed = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    cancelled = models.PositiveBigIntegerField(default=0)
    retried = models.PositiveBigIntegerField(default=0)
    wait_seconds = models.FloatField(default=0.0)
    run_seconds = models.FloatField(default=0.0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["length", "minute", "queue"], name="cm_span_unique")]

    def __str__(self) -> str:
        return f"{escaped(self.queue)} {self.minute}+{self.length}"


WAIT_COLUMNS, RUN_COLUMNS = ([f"{kind}_{number}" for number in range(BUCKETS)] for kind in ("wait", "run"))
for _name in (*WAIT_COLUMNS, *RUN_COLUMNS):
    QueueSpan.add_to_class(_name, models.PositiveBigIntegerField(default=0))


class StatisticsProgress(models.Model):
    """How far the journal and the jobs are counted; one row, whose lock lets one worker count at a time.

    ``counted_to``, ``counted_at``: the key of the last journal row that is counted, and the latest time of any.
    ``marked_to``: what is counted next, as soon as no transaction that may have written up to there is under way;
    ``mark`` tells which these are, ``marked_at`` since when they are waited for. ``created_to`` and
    ``created_again_to``: the first minute whose new jobs are not counted yet, or not for the second time.
    """

    counted_to = models.BigIntegerField(default=0)
    counted_at = models.DateTimeField(null=True)
    marked_to = models.BigIntegerField(default=0)
    marked_at = models.DateTimeField(null=True)
    mark = models.BigIntegerField(default=0)
    created_to = models.PositiveIntegerField(default=0)
    created_again_to = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"to {self.counted_to}"

"""A collector of Prometheus' client: all from what the maintainer has counted, and from counts that indexes serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import accumulate

from django.db import router
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..jobs.histogram import BUCKET_SECONDS, Histogram
from ..models import ContainerJob, Worker
from ..queue import Activity, QueueStatistics, activity_by_queue, counts_by_status, queue_statistics
from ..store import database_now, uncounted_rows

_PREFIX = "container_manager_"
_BOUNDS = [*(f"{bound:g}" for bound in BUCKET_SECONDS), "+Inf"]
# By field of `Activity`, the metric and what it counts.
_COUNTERS = {
    "queued": ("jobs_queued", "Times that a job was queued: new ones, and retries."),
    "started": ("attempts_started", "Attempts that were started (claims)."),
    "completed": ("attempts_completed", "Attempts that completed their job."),
    "failed": ("attempts_failed", "Attempts that failed, with those that were retried."),
    "retried": ("attempts_retried", "Failed attempts after which the job is retried."),
    "cancelled": ("jobs_cancelled", "Jobs that were cancelled."),
}


class JobsCollector(Collector):
    """Collects the metrics of a database's jobs; see docs/howto/monitoring.md.

    For a registry of one's own: ``registry.register(JobsCollector())``. It asks the database at each scrape, and at
    none that it is registered by.
    """

    def __init__(self, *, using: str | None = None) -> None:
        self._using = using

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        using = self._using or router.db_for_read(ContainerJob)
        jobs = _gauge("jobs", "Jobs by status, counted to 10,000.", "status")
        for status, count in counts_by_status(using=using).items():
            jobs.add_metric([status.value], count)
        yield jobs
        # What finished is in the counters.
        yield from _queues(queue_statistics(since=timedelta(0), using=using))
        yield from _activity(activity_by_queue(since=None, using=using))
        yield from _workers(using)
        rows = _gauge("statistics_uncounted_rows", "Rows of the journal that are not counted yet, roughly.")
        rows.add_metric([], uncounted_rows(using=using))
        yield rows


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _queues(queues: Mapping[str, QueueStatistics]) -> Iterator[Metric]:
    jobs = _gauge(
        "queue_jobs", "Unfinished jobs of a queue, counted to 10,000; queued ones are due.", "queue", "status"
    )
    oldest = _gauge("queue_oldest_seconds", "For how long the first due job of a queue has been due.", "queue")
    paused = _gauge("queue_paused", "1 for a queue that is paused.", "queue")
    unserved = _gauge("queue_unserved", "1 where jobs wait that no live worker serves.", "queue", "executor")
    for name, statistics in queues.items():
        for status in ("queued", "scheduled", "running", "retrying"):
            jobs.add_metric([name, status], getattr(statistics, status))
        oldest.add_metric([name], statistics.oldest_seconds)
        paused.add_metric([name], int(statistics.paused))
        for executor in statistics.unserved:
            unserved.add_metric([name, executor], 1)
    yield from (jobs, oldest, paused, unserved)


def _activity(queues: Mapping[str, Activity]) -> Iterator[Metric]:
    for field, (name, text) in _COUNTERS.items():
        counter = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=["queue"])
        for queue, activity in queues.items():
            counter.add_metric([queue], getattr(activity, field))
        yield counter
    for name, text in (
        ("wait", "From when a job was due to its start."),
        ("run", "From the start of an attempt to its end."),
    ):
        family = HistogramMetricFamily(f"{_PREFIX}{name}_seconds", text, labels=["queue"])
        for queue, activity in queues.items():
            histogram: Histogram = getattr(activity, name)
            buckets = list(zip(_BOUNDS, accumulate(map(float, histogram.counts)), strict=True))
            family.add_metric([queue], buckets, histogram.seconds)
        yield family


def _workers(using: str) -> Iterator[Metric]:
    slots = _gauge("worker_slots", "How many jobs a worker runs at once.", "worker", "host")
    lease = _gauge("worker_lease_seconds", "Until a worker's lease expires; below 0 since it has.", "worker", "host")
    away = _gauge("engine_away", "Live workers of an executor whose engine does not answer them.", "executor")
    now, executors = database_now(using=using), Counter[str]()
    for worker in Worker.objects.using(using).order_by("started_at", "pk"):
        left = (worker.lease_expires_at - now).total_seconds()
        slots.add_metric([worker.pk, worker.host], worker.slots)
        lease.add_metric([worker.pk, worker.host], left)
        if left >= 0:
            known = worker.engines_away or {}
            executors.update({alias: int(alias in known) for alias in worker.executors})
    for alias, count in executors.items():
        away.add_metric([alias], count)
    yield from (slots, lease, away)

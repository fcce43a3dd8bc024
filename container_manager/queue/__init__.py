"""The queue's public API: enqueue, retry and cancel jobs, pause queues, count, prune."""

from ..jobs.histogram import BUCKET_SECONDS, Histogram
from .entry import acancel, aenqueue, aenqueue_many, aretry, cancel, enqueue, enqueue_many, kill, retry
from .minutes import Activity, activity, activity_by_queue
from .pauses import pause_queue, paused_queues, resume_queue
from .pruning import prune_jobs
from .statistics import COUNT_LIMIT, QueueStatistics, counts_by_status, queue_statistics

__all__ = [
    "BUCKET_SECONDS",
    "COUNT_LIMIT",
    "Activity",
    "Histogram",
    "QueueStatistics",
    "acancel",
    "activity",
    "activity_by_queue",
    "aenqueue",
    "aenqueue_many",
    "aretry",
    "cancel",
    "counts_by_status",
    "enqueue",
    "enqueue_many",
    "kill",
    "pause_queue",
    "paused_queues",
    "prune_jobs",
    "queue_statistics",
    "resume_queue",
    "retry",
]

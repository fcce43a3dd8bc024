"""The queue's public API: enqueue, retry and cancel jobs, explain them, pause queues, count, prune."""

from ..columns.unique_keys import UniqueKeyHeld
from ..jobs.histogram import BUCKET_SECONDS, Histogram
from .entry import acancel, aenqueue, aenqueue_many, aretry, cancel, enqueue, enqueue_many, kill, retry
from .explaining import explain
from .explanation import Explanation, ExplanationCode
from .pauses import pause_queue, paused_queues, resume_queue
from .pruning import prune_jobs
from .spans import Activity, activity, activity_by_queue
from .statistics import COUNT_LIMIT, QueueStatistics, counts_by_status, queue_statistics

__all__ = [
    "BUCKET_SECONDS",
    "COUNT_LIMIT",
    "Activity",
    "Explanation",
    "ExplanationCode",
    "Histogram",
    "QueueStatistics",
    "UniqueKeyHeld",
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
    "explain",
    "kill",
    "pause_queue",
    "paused_queues",
    "prune_jobs",
    "queue_statistics",
    "resume_queue",
    "retry",
]

"""The queue's public API: enqueue and retry jobs, pause queues, count, prune."""

from .entry import aenqueue, aenqueue_many, aretry, enqueue, enqueue_many, retry
from .pauses import pause_queue, paused_queues, resume_queue
from .pruning import prune_jobs
from .statistics import QueueStatistics, queue_statistics

__all__ = [
    "QueueStatistics",
    "aenqueue",
    "aenqueue_many",
    "aretry",
    "enqueue",
    "enqueue_many",
    "pause_queue",
    "paused_queues",
    "prune_jobs",
    "queue_statistics",
    "resume_queue",
    "retry",
]

"""The queue's public API: enqueue, retry and cancel jobs, explain them, pause queues, count, prune."""

from ..unique_keys import UniqueKeyHeld
from .entry import acancel, aenqueue, aenqueue_many, aretry, cancel, enqueue, enqueue_many, kill, retry
from .explaining import explain
from .explanation import Explanation, ExplanationCode
from .pauses import pause_queue, paused_queues, resume_queue
from .pruning import prune_jobs
from .statistics import QueueStatistics, queue_statistics

__all__ = [
    "Explanation",
    "ExplanationCode",
    "QueueStatistics",
    "UniqueKeyHeld",
    "acancel",
    "aenqueue",
    "aenqueue_many",
    "aretry",
    "cancel",
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

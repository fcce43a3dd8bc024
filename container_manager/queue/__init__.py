"""The queue: what workers do to jobs in the database, in few statements, each conditional on what it assumes.

Every write of a worker about an attempt names the worker and the attempt's number (the fencing token): where another
worker has taken over, or the job was cancelled, it changes nothing.
"""

from .attempts import ClaimedJob, Outcome, OwnedAttempt, claim, finish, is_due, owned_attempts, record_handles, rescue
from .entry import enqueue, enqueue_many, retry
from .leases import drop_lease, is_maintainer, live_workers, prepare_session, register_worker, renew_lease
from .logs import LogChange, LogEntry, store_logs
from .orphans import attempts_over
from .pauses import pause_queue, paused_queues, resume_queue
from .pruning import PRUNE_BATCH, prune_jobs
from .retries import promote_retries
from .statistics import QueueStatistics, queue_statistics
from .unschedulable import unschedulable_jobs
from .wakeup import wake_workers

__all__ = [
    "PRUNE_BATCH",
    "ClaimedJob",
    "LogChange",
    "LogEntry",
    "Outcome",
    "OwnedAttempt",
    "QueueStatistics",
    "attempts_over",
    "claim",
    "drop_lease",
    "enqueue",
    "enqueue_many",
    "finish",
    "is_due",
    "is_maintainer",
    "live_workers",
    "owned_attempts",
    "pause_queue",
    "paused_queues",
    "prepare_session",
    "promote_retries",
    "prune_jobs",
    "queue_statistics",
    "record_handles",
    "register_worker",
    "renew_lease",
    "rescue",
    "resume_queue",
    "retry",
    "store_logs",
    "unschedulable_jobs",
    "wake_workers",
]

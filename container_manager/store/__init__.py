"""What workers read and write in the tables: few statements, each conditional on what it assumes. Private.

Every write about an attempt names the worker and the attempt's number (the fencing token): if another worker has
rescued the attempt, or its job was cancelled, the write changes nothing.
"""

from .attempts import owned_attempts, record_handles
from .claiming import claim, due_lanes, is_due
from .finishing import finish
from .guarantee import missing_triggers
from .leases import drop_lease, live_workers, prepare_session, register_worker, renew_lease
from .logs import store_logs
from .looking import look
from .notifications import wake_workers
from .orphans import attempts_over
from .rescuing import rescue
from .retries import promote_retries
from .sql.lanes import Lane
from .unschedulable import unschedulable_jobs
from .values import ClaimedJob, LogChange, LogEntry, Outcome, OwnedAttempt

__all__ = [
    "ClaimedJob",
    "Lane",
    "LogChange",
    "LogEntry",
    "Outcome",
    "OwnedAttempt",
    "attempts_over",
    "claim",
    "drop_lease",
    "due_lanes",
    "finish",
    "is_due",
    "live_workers",
    "look",
    "missing_triggers",
    "owned_attempts",
    "prepare_session",
    "promote_retries",
    "record_handles",
    "register_worker",
    "renew_lease",
    "rescue",
    "store_logs",
    "unschedulable_jobs",
    "wake_workers",
]

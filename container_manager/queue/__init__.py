"""The queue: what workers do to jobs in the database, in few statements, each conditional on what it assumes.

Every write of a worker about an attempt names the worker and the attempt's number (the fencing token): where another
worker has taken over, or the job was cancelled, it changes nothing.
"""

from .attempts import ClaimedJob, Outcome, OwnedAttempt, claim, finish, owned_attempts, record_handle, rescue
from .leases import drop_lease, live_workers, register_worker, renew_lease
from .logs import LogEntry, append_logs
from .retries import promote_retries

__all__ = [
    "ClaimedJob",
    "LogEntry",
    "Outcome",
    "OwnedAttempt",
    "append_logs",
    "claim",
    "drop_lease",
    "finish",
    "live_workers",
    "owned_attempts",
    "promote_retries",
    "record_handle",
    "register_worker",
    "renew_lease",
    "rescue",
]

"""What workers read and write in the tables: few statements, each conditional on what it assumes. Private.

Every write about an attempt names the worker and the attempt's number (the fencing token): if another worker has
rescued the attempt, or its job was cancelled, the write changes nothing.
"""

from .aggregation import Aggregation, minute_of, uncounted_rows
from .attempt_progress import store_progress
from .attempts import owned_attempts, record_launches, request_kill
from .claiming import REFUSED_CLAIM, claim, due_lanes, is_due, note_refused_claim
from .clock import database_now
from .counting import Backlog, backlog, queue_counts, status_counts
from .finishing import finish
from .guarantee import missing_triggers
from .isolation import OnRefused, is_refusal
from .leases import (
    Lease,
    delete_expired_worker,
    drop_lease,
    engines_by_alias,
    live_workers,
    other_leases,
    record_engines,
    register_worker,
    renew_lease,
)
from .logs import store_logs
from .looking import look
from .notifications import wake_dashboards, wake_workers
from .old_jobs import PRUNE_BATCH, Pruning
from .orphans import attempts_over
from .places import this_place
from .queue_names import known_queues
from .rescuing import UnownedAttempt, rescue, take_over, unowned_attempts
from .retries import promote_retries
from .sessions import connect_options, has_timed_out, prepare_session
from .silence import end_connection, shut_down, socket_of
from .sql.lanes import Lane
from .unschedulable import UNSCHEDULABLE_BATCH, unschedulable_jobs, unserved, unserved_destinations
from .values import ClaimedJob, Launch, LogChange, LogEntry, Outcome, OwnedAttempt, ProgressChange

__all__ = [
    "PRUNE_BATCH",
    "REFUSED_CLAIM",
    "UNSCHEDULABLE_BATCH",
    "Aggregation",
    "Backlog",
    "ClaimedJob",
    "Lane",
    "Launch",
    "Lease",
    "LogChange",
    "LogEntry",
    "OnRefused",
    "Outcome",
    "OwnedAttempt",
    "ProgressChange",
    "Pruning",
    "UnownedAttempt",
    "attempts_over",
    "backlog",
    "claim",
    "connect_options",
    "database_now",
    "delete_expired_worker",
    "drop_lease",
    "due_lanes",
    "end_connection",
    "engines_by_alias",
    "finish",
    "has_timed_out",
    "is_due",
    "is_refusal",
    "known_queues",
    "live_workers",
    "look",
    "minute_of",
    "missing_triggers",
    "note_refused_claim",
    "other_leases",
    "owned_attempts",
    "prepare_session",
    "promote_retries",
    "queue_counts",
    "record_engines",
    "record_launches",
    "register_worker",
    "renew_lease",
    "request_kill",
    "rescue",
    "shut_down",
    "socket_of",
    "status_counts",
    "store_logs",
    "store_progress",
    "take_over",
    "this_place",
    "uncounted_rows",
    "unowned_attempts",
    "unschedulable_jobs",
    "unserved",
    "unserved_destinations",
    "wake_dashboards",
    "wake_workers",
]

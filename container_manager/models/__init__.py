"""The tables: jobs, attempts, the journal of transitions, logs, workers, paused queues and statistics."""

from ..jobs.statuses import (
    FINISHED_STATUSES,
    JOB_TRANSITIONS,
    UNFINISHED_STATUSES,
    FailureReason,
    JobStatus,
    UniqueUntil,
)
from .container_job import ContainerJob
from .job_attempt import JobAttempt, JobLog
from .job_transition import JobTransition
from .job_waiting import JobNotCompleted
from .paused_queue import PausedQueue
from .queue_span import RUN_COLUMNS, WAIT_COLUMNS, QueueSpan, StatisticsProgress
from .workers import Worker

__all__ = [
    "FINISHED_STATUSES",
    "JOB_TRANSITIONS",
    "RUN_COLUMNS",
    "UNFINISHED_STATUSES",
    "WAIT_COLUMNS",
    "ContainerJob",
    "FailureReason",
    "JobAttempt",
    "JobLog",
    "JobNotCompleted",
    "JobStatus",
    "JobTransition",
    "PausedQueue",
    "QueueSpan",
    "StatisticsProgress",
    "UniqueUntil",
    "Worker",
]

"""The statuses of a job and the map of transitions between them, why an attempt failed, and how long a key is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class JobStatus(TextChoices):
    """The states of a job; also `ContainerJob.Status`."""

    PENDING = "pending", _("Pending")
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    COMPLETED = "completed", _("Completed")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")
    RETRYING = "retrying", _("Retrying")


# The only statement of the map: triggers, checks, diagram and docs derive from it.
JOB_TRANSITIONS: Mapping[str | int, Sequence[str | int]] = {
    JobStatus.PENDING: [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLED],
    JobStatus.QUEUED: [JobStatus.RUNNING, JobStatus.CANCELLED],
    JobStatus.RUNNING: [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED],
    JobStatus.FAILED: [JobStatus.RETRYING, JobStatus.CANCELLED],
    JobStatus.RETRYING: [JobStatus.QUEUED, JobStatus.CANCELLED],
    JobStatus.COMPLETED: [],
    JobStatus.CANCELLED: [],
}

# The worker that stores a failure also starts its retry, in one transaction. So a job that others see as failed has no
# retry to come, unless somebody asks for one.
FINISHED_STATUSES = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
UNFINISHED_STATUSES = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRYING)


class FailureReason(TextChoices):
    """Why an attempt failed."""

    ERROR = "error", _("Non-zero exit code")
    SIGNAL = "signal", _("Ended by a signal")
    OOM = "oom", _("Out of memory")
    TIMEOUT = "timeout", _("Timed out")
    IMAGE = "image", _("Image not available")
    START = "start", _("Could not be started")
    UNSCHEDULABLE = "unschedulable", _("Could not be scheduled")
    UNAVAILABLE = "unavailable", _("Registry, disk or the like not available")
    NODE_LOST = "node_lost", _("Node lost")
    LOST = "lost", _("Lost: nobody knows how it ended")


class UniqueUntil(TextChoices):
    """Until when a job holds its unique key."""

    STARTED = "started", _("Until it has started")
    FINISHED = "finished", _("Until it has finished")

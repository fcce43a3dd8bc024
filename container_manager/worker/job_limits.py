"""Hold jobs to the limits that the settings give to an executor's jobs."""

from __future__ import annotations

from ..conf import AppSettings
from ..store import ClaimedJob


def within_limits(job: ClaimedJob, settings: AppSettings) -> ClaimedJob:
    """Return a job with no more retries and grace than its executor's limits allow, and with a timeout if they set one.

    A longer timeout than they allow stays, and the launch is rejected: to end the job early would waste its work.
    """
    limits = settings.limits(job.spec.executor)
    if limits is None:
        return job
    spec = job.spec._replace(max_retries=limits.retries(job.spec.max_retries))
    if limits.grace_seconds is not None:
        spec = spec._replace(grace_seconds=min(spec.grace_seconds, limits.grace_seconds))
    if spec.timeout_seconds is None:
        spec = spec._replace(timeout_seconds=limits.timeout_seconds)
    return job._replace(spec=spec)

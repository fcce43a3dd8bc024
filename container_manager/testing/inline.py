"""Run jobs in the caller's thread, on its connection, and in its transaction if it is in one."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import router

from ..conf import app_settings
from ..executors.registry import build_executors
from ..models import ContainerJob, JobAttempt, JobStatus, PausedQueue
from ..worker import WorkerLoop, WorkerOptions

# Nobody notifies a worker that runs inline, and its database is near.
_POLL_SECONDS = 0.05
_RUNNABLE = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RETRYING)


class JobNotRun(Exception):
    """A job that a test runs was not run; the message says why, and what to do."""


def run_job(job: ContainerJob, *, timeout: float = 60.0) -> ContainerJob:
    """Run one attempt of a job now, as a worker would, and return the job, refreshed.

    A pending job is queued first. One that is scheduled for later, or waits for a retry, runs now.

    Raises JobNotRun if no attempt could begin, TimeoutError if it has not ended within ``timeout`` seconds (then it is
    killed), and ImproperlyConfigured where the settings lack its executor.
    """
    using = job._state.db or router.db_for_write(ContainerJob, instance=job)
    job.refresh_from_db()
    if job.status not in _RUNNABLE:
        raise JobNotRun(f"The job is {job.status}. Run what `queue.retry(job)` returns, or a new job.")
    if PausedQueue.objects.using(using).filter(name=job.queue).exists():
        raise JobNotRun(f"The job's queue {job.queue!r} is paused. Call `queue.resume_queue({job.queue!r})` first.")
    if job.status != JobStatus.QUEUED:
        job.mark_as_queued(reason="run by a test")
    ContainerJob.objects.using(using).filter(pk=job.pk, status=JobStatus.QUEUED).update(scheduled_for=None)
    worker = _work([job.executor], using=using, timeout=timeout, what=f"Job {job.pk}", only=job.pk, max_jobs=1)
    job.refresh_from_db()
    if not JobAttempt.objects.using(using).filter(job=job, worker=worker.id).exists():
        why = f"Its executor {job.executor!r} does not answer." if worker.gave_up else job.last_error
        raise JobNotRun(f"No attempt of the job could begin, it is {job.status}. {why}".strip())
    return job


def run_queued_jobs(
    *, queues: Collection[str] | None = None, timeout: float = 60.0, using: str | None = None
) -> list[ContainerJob]:
    """Run the jobs that are due, one after another, as a worker with ``--drain`` would; return those that ran.

    Jobs that are queued meanwhile run too, and so do retries that fall due. What waits for its time, for a queue that
    is paused or for an executor that the settings lack stays as it is. ``queues``: only these.

    Raises TimeoutError if they have not ended within ``timeout`` seconds together; what runs is killed then.
    """
    using = using or router.db_for_write(ContainerJob)
    queued = ContainerJob.objects.using(using).filter(status__in=(JobStatus.QUEUED, JobStatus.RETRYING))
    named = set(queued.order_by().values_list("executor", flat=True).distinct())
    # Others need not be reachable.
    if not (aliases := [alias for alias in app_settings().executors if alias in named]):
        return []
    worker = _work(
        aliases,
        using=using,
        timeout=timeout,
        what="What was queued",
        queues=None if queues is None else tuple(queues),
    )
    attempts = JobAttempt.objects.using(using).filter(worker=worker.id).order_by("pk")
    ran = dict.fromkeys(attempts.values_list("job", flat=True))
    found = ContainerJob.objects.using(using).in_bulk(list(ran))
    return [found[pk] for pk in ran]


def _work(aliases: Sequence[str], *, using: str, timeout: float, what: str, **options: Any) -> WorkerLoop:
    """Let a worker run what is due until nothing is, and return it."""
    settings = app_settings().for_database(using)
    settings = replace(settings, poll_seconds=min(settings.poll_seconds, _POLL_SECONDS))
    worker = WorkerLoop(
        settings=settings,
        executors=build_executors(settings, aliases),
        options=WorkerOptions(slots=1, drain=True, inline=True, using=using, **options),
    )
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        # Twice: not to wait for what runs.
        worker.stop()
        worker.stop()

    timer = threading.Timer(timeout, stop)
    timer.daemon = True
    timer.start()
    try:
        worker.run()
    finally:
        timer.cancel()
        timer.join()
    if worker.unguarded:
        raise ImproperlyConfigured(
            f"Triggers of jobs are missing in the test database, so that no job runs: {', '.join(worker.unguarded)}. "
            "`migrate` installs them; a database that is kept between test runs may have to be created again."
        )
    if expired.is_set():
        raise TimeoutError(f"{what} has not ended within {timeout:g} s, and was killed. Is a longer `timeout` needed?")
    return worker

"""Run one job in the foreground: its output goes to this command's streams, its exit code is this command's."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.db import connections

from ..conf import app_settings
from ..executors.registry import build_executor
from ..models import ContainerJob, JobStatus
from ..statemachine import TransitionError
from ..worker import WorkerLoop, WorkerOptions
from .finding import short_id, unanswered, unguarded
from .job_arguments import add_job_arguments, create_job
from .logs_command import follow, write_bytes
from .printing import Output

_FAILED = 1
# Like a shell: the exit code of a command that a signal ended is 128 + the signal's number.
_SIGNAL_BASE = 128


def add_arguments(parser: ArgumentParser) -> None:
    add_job_arguments(parser)
    parser.set_defaults(max_retries=0)


def run(options: Mapping[str, Any], out: Output) -> int:
    settings = app_settings().for_database(options["database"])
    job = create_job(options)
    worker = WorkerLoop(
        settings=settings,
        executors={job.executor: build_executor(settings, job.executor)},
        options=WorkerOptions(slots=1, only=job.pk, using=options["database"]),
    )
    follower = threading.Thread(target=_follow, args=(job.pk, worker, options, out))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=_cancel, args=(job.pk, options["database"])).start())
    job.mark_as_queued()
    follower.start()
    worker.run()
    if worker.unguarded:
        _cancel(job.pk, options["database"], reason="triggers are missing")
        follower.join()
        raise unguarded(worker.unguarded, options["database"])
    if worker.gave_up:
        # We are about to report a failure: the job must not start later.
        _cancel(job.pk, options["database"], reason="its executor does not answer")
    follower.join()
    job.refresh_from_db()
    # Another worker, which could reach the engine, may have run the job in the meantime.
    if worker.gave_up and job.status == JobStatus.CANCELLED:
        raise unanswered(worker.gave_up, f"job {short_id(job.pk)} was cancelled")
    return _exit_code(job, options["err"])


def _follow(pk: Any, worker: WorkerLoop, options: Mapping[str, Any], out: Output) -> None:
    try:
        for stream, data in follow(ContainerJob.objects.using(options["database"]).get(pk=pk)):
            write_bytes(out if stream == "stdout" else options["err"], data)
    finally:
        worker.stop()
        connections.close_all()


def _cancel(pk: Any, using: str, *, reason: str = "interrupted") -> None:
    try:
        ContainerJob.objects.using(using).get(pk=pk).mark_as_cancelled(reason=reason)
    except TransitionError:
        # The job finished first.
        pass
    finally:
        connections.close_all()


def _exit_code(job: ContainerJob, err: Output) -> int:
    if job.status == JobStatus.COMPLETED:
        return 0
    if job.status == JobStatus.CANCELLED:
        err.write(f"Job {short_id(job.pk)} was cancelled.\n")
        return _SIGNAL_BASE + signal.SIGINT
    err.write(f"Job {short_id(job.pk)} {job.status} ({job.failure_reason}): {job.last_error}\n")
    attempt = job.attempts.order_by("number").last()
    if attempt is not None and attempt.signal:
        return _SIGNAL_BASE + attempt.signal
    return job.exit_code or _FAILED

"""Run one job in the foreground: its output goes to this command's streams, its exit code is this command's."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.db import connections

from ..conf import app_settings
from ..executors.registry import build_executor
from ..jobs.printable import escaped
from ..jobs.signal_names import exit_code_of
from ..models import ContainerJob, JobStatus
from ..worker import ThreadFailed, WorkerLoop, WorkerOptions
from ..worker.database import Database
from .finding import Refused, short_id, unanswered, unguarded
from .job_arguments import add_job_arguments, create_job
from .logs_command import follow, write_bytes
from .printing import Output
from .process_end import ended_by_signals, when_stdout_closes

_FAILED = 1
_UNREAD = "its output is read no more"


def add_arguments(parser: ArgumentParser) -> None:
    add_job_arguments(parser)
    parser.set_defaults(max_retries=0)


def run(options: Mapping[str, Any], out: Output) -> int:
    settings = app_settings().for_database(options["database"])
    if connections[options["database"]].in_atomic_block:
        raise Refused(
            "'run' cannot work in a transaction: other connections do not see its job. "
            "In a test, use TransactionTestCase, or 'submit' and then 'worker --drain'."
        )
    job = create_job(options)
    if job.existed:
        raise Refused(
            f"Job {short_id(job.pk)} ({job.status}) holds the unique key {job.unique_key!r}: nothing was run."
        )
    worker = WorkerLoop(
        settings=settings,
        executors={job.executor: build_executor(settings, job.executor)},
        options=WorkerOptions(slots=1, only=job.pk, using=options["database"]),
    )
    with ended_by_signals(lambda: _begin_to_cancel(job.pk, options["database"])):
        return _run(job, worker, options, out)


def _run(job: ContainerJob, worker: WorkerLoop, options: Mapping[str, Any], out: Output) -> int:
    unwritable: list[OSError] = []
    follower = threading.Thread(target=_follow, args=(job.pk, worker, options, out, unwritable))
    job.mark_as_queued()
    if getattr(out, "_out", out) is sys.stdout:
        when_stdout_closes(lambda: _cancel(job.pk, options["database"], reason=_UNREAD))
    follower.start()
    try:
        worker.run()
    except ThreadFailed as error:
        _cancel(job.pk, options["database"], reason="its worker failed")
        follower.join()
        raise Refused(str(error)) from error
    if worker.unguarded:
        _cancel(job.pk, options["database"], reason="triggers are missing")
        follower.join()
        raise unguarded(worker.unguarded, options["database"])
    if worker.gave_up:
        # We are about to report a failure: the job must not start later.
        _cancel(job.pk, options["database"], reason="its executor does not answer")
    follower.join()
    job.refresh_from_db()
    if unwritable and not isinstance(unwritable[0], BrokenPipeError):
        raise Refused(f"The output could not be written: {unwritable[0]}.")
    if unwritable:
        raise unwritable[0]
    # The row says it: the thread that cancelled the job may not have come back from that yet.
    if job.status == JobStatus.CANCELLED and job.status_changed_reason == _UNREAD:
        raise BrokenPipeError
    # Another worker, which could reach the engine, may have run the job in the meantime.
    if worker.gave_up and job.status == JobStatus.CANCELLED:
        raise unanswered(worker.gave_up, f"job {short_id(job.pk)} was cancelled")
    return _exit_code(job, options["err"])


def _follow(pk: Any, worker: WorkerLoop, options: Mapping[str, Any], out: Output, unwritable: list[OSError]) -> None:
    """Print a job's output until it has ended, then end the worker; output that cannot be written cancels the job."""
    database = Database(options["database"], lease_seconds=app_settings().lease_seconds)
    try:
        database.do(lambda: None)
        for stream, data in follow(ContainerJob.objects.using(options["database"]).get(pk=pk)):
            if unwritable:
                continue
            try:
                write_bytes(out if stream == "stdout" else options["err"], data)
            except OSError as error:
                unwritable.append(error)
                # In another thread: this one's connection is being read from.
                _begin_to_cancel(pk, options["database"], reason=_UNREAD)
    finally:
        worker.stop()
        database.end()
        connections.close_all()


def _begin_to_cancel(pk: Any, using: str, *, reason: str = "interrupted") -> None:
    threading.Thread(target=_cancel, args=(pk, using), kwargs={"reason": reason}).start()


def _cancel(pk: Any, using: str, *, reason: str = "interrupted") -> None:
    """Cancel the job, unless it has finished. Closes this thread's connections."""
    try:
        # Not by an instance, which is stale if the job is claimed meanwhile.
        ContainerJob.objects.using(using).filter(pk=pk).transition_to(JobStatus.CANCELLED, reason=reason)
    finally:
        connections.close_all()


def _exit_code(job: ContainerJob, err: Output) -> int:
    if job.status == JobStatus.COMPLETED:
        return 0
    if job.status == JobStatus.CANCELLED:
        err.write(f"Job {short_id(job.pk)} was cancelled.\n")
        # Like a shell.
        return exit_code_of(signal.SIGINT)
    err.write(f"Job {short_id(job.pk)} {job.status} ({job.failure_reason}): {escaped(job.last_error)}\n")
    attempt = job.attempts.order_by("number").last()
    if attempt is not None and attempt.signal:
        return exit_code_of(attempt.signal)
    return job.exit_code or _FAILED

"""Run the task of the job whose attempt this process is; containers and local processes of tasks do."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from ..models import JobStatus
from .finding import Refused, job_queryset
from .printing import Output


def add_arguments(parser: ArgumentParser) -> None:
    pass


def run(options: Mapping[str, Any], out: Output) -> int:
    # It sets a signal handler, and needs the task framework: both only here.
    from ..tasks.task_run import run_task

    key, attempt = (os.environ.get(f"CONTAINER_MANAGER_{name}", "") for name in ("JOB", "ATTEMPT"))
    if not key:
        raise Refused("A worker runs this for a task: there is no CONTAINER_MANAGER_JOB in the environment.")
    job = job_queryset(options).filter(pk=key).exclude(task="").first()
    if job is None:
        raise Refused(f"There is no task {key} in this database. Does the container have the project's database?")
    if job.status != JobStatus.RUNNING or str(job.attempt) != attempt:
        raise Refused(f"Attempt {attempt} of {key} is over: the job is {job.status}, with attempt {job.attempt}.")
    return run_task(job.task, job.task_arguments or {})

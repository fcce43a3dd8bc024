"""Turn a claimed job into what an executor starts: argv, environment with its secrets, key."""

from __future__ import annotations

import os
from pathlib import Path

from ..commands import split_command
from ..conf import AppSettings
from ..executors.base import LaunchSpec, Rejected
from ..queue import ClaimedJob


def launch_key(job: ClaimedJob, settings: AppSettings) -> str:
    """Return the attempt's name in every engine: the same for every worker, another for every attempt."""
    return f"cm-{settings.install}-{job.id.hex}-{job.attempt}"


def launch_spec(job: ClaimedJob, settings: AppSettings) -> LaunchSpec:
    """Return what to start. The command finds its job and attempt in variables of that name.

    Raises Rejected where the job's own words make no sense: it fails, and the worker lives on.
    """
    try:
        argv = tuple(split_command(job.command))
    except ValueError as error:
        raise Rejected("start", f"The command's quoting is broken: {error}. Command: {job.command!r}") from error
    if not argv and not job.image:
        raise Rejected("start", "The command is empty, and there is no image that could have one.")
    for column in ("environment", "secrets", "labels"):
        if not isinstance(given := getattr(job, column), dict):
            raise Rejected("start", f"The job's {column} must be a JSON object, not {type(given).__name__}.")
    environment = {**job.environment, **{name: read_secret(ref, settings) for name, ref in job.secrets.items()}}
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name or "\0" in str(value):
            raise Rejected("start", f"{name!r} cannot be an environment variable.")
    return LaunchSpec(
        key=launch_key(job, settings),
        argv=argv,
        image=job.image,
        environment={
            "CONTAINER_MANAGER_JOB": str(job.id),
            "CONTAINER_MANAGER_ATTEMPT": str(job.attempt),
            **{name: str(value) for name, value in environment.items()},
        },
        working_directory=job.working_directory,
        memory_bytes=job.memory_bytes,
        cpu_count=job.cpu_count,
        labels=job.labels,
    )


def read_secret(reference: str, settings: AppSettings) -> str:
    """Return the value that ``env:NAME`` or ``file:NAME`` stands for on this worker.

    Only variables that begin with ``CM_SECRET_`` and files of the secrets directory can be named: a job cannot ask
    for the worker's own secrets. Raises Rejected, without the value, where there is none.
    """
    kind, _, name = str(reference).partition(":")
    if kind == "env" and name.startswith("CM_SECRET_"):
        if name in os.environ:
            return os.environ[name]
        raise Rejected("start", f"The worker has no variable {name!r} for the secret reference {reference!r}.")
    if kind == "file" and name and Path(name).name == name and name not in (".", ".."):
        try:
            return (Path(settings.secrets_directory) / name).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Rejected("start", f"The secret {reference!r} cannot be read: {type(error).__name__}.") from error
    raise Rejected("start", f"The secret reference {reference!r} is neither env:CM_SECRET_NAME nor file:NAME.")

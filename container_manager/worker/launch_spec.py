"""Turn a claimed job into what an executor launches: argv, environment with the values of secrets, launch key."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

from ..conf import AppSettings
from ..executors.base import LaunchSpec, Rejected
from ..jobs.secret_references import engine_secret, read_secret, read_secret_bytes, required_permission
from ..jobs.sizes import check_sizes
from ..jobs.spec import JobSpec
from ..jobs.validity import InvalidField, command_and_request
from ..store import ClaimedJob
from .run import AttemptKey


def launch_key(job: ClaimedJob, settings: AppSettings, *, number: int | None = None) -> str:
    """Return the name of a job's attempt in every engine, the same for all workers; ``number``: of another attempt."""
    return f"cm-{settings.install}-{job.id.hex}-{job.attempt if number is None else number}"


def attempt_of(key: str) -> AttemptKey | None:
    """Return the job id and attempt number of a launch key; None for any other text."""
    try:
        _, job, attempt = key.rsplit("-", 2)
        return uuid.UUID(hex=job), int(attempt)
    except ValueError:
        return None


def launch_spec(job: ClaimedJob, settings: AppSettings, *, key: str, is_wanted: Callable[[], bool]) -> LaunchSpec:
    """Return what to launch. The command finds its job and attempt in environment variables.

    Raises Rejected for values of the job that are wrong: the job fails, the worker goes on.
    """
    spec = job.spec
    try:
        argv, container = command_and_request(spec)
    except InvalidField as error:
        raise Rejected("start", f"The job's column {error.field!r} is wrong. {error}") from error
    limits = settings.limits(spec.executor) if spec.timeout_seconds else None
    if limits and limits.timeout_seconds is not None and (spec.timeout_seconds or 0) > limits.timeout_seconds:
        raise Rejected(
            "start",
            f"The job asks for timeout_seconds={spec.timeout_seconds}; the executor {spec.executor!r} allows "
            f"{limits.timeout_seconds} (its 'LIMITS' in the setting EXECUTORS).",
        )
    environment = _environment(spec, settings)
    # Last: a job must not pass for another one.
    environment["CONTAINER_MANAGER_JOB"] = str(job.id)
    environment["CONTAINER_MANAGER_ATTEMPT"] = str(job.attempt)
    try:
        check_sizes((*container.entrypoint_words, *argv), environment)
    except ValueError as error:
        raise Rejected("start", str(error)) from error
    return LaunchSpec(
        key=key,
        argv=tuple(argv),
        job=spec,
        environment=environment,
        secret_files=_secret_files(spec, settings),
        container=container,
        is_wanted=is_wanted,
    )


def _environment(spec: JobSpec, settings: AppSettings) -> dict[str, str]:
    if not (spec.environment or spec.secrets):
        return {}
    environment = dict(spec.environment)
    try:
        for name, reference in spec.secrets.items():
            required_permission(reference, settings.secrets)
            if engine_secret(reference) is None:
                environment[name] = read_secret(reference, directory=settings.secrets_directory)
    except (LookupError, ValueError) as error:
        raise Rejected("start", str(error.args[0])) from error
    if odd := [name for name in spec.secrets if "\0" in environment.get(name, "")]:
        raise Rejected("start", f"The secret for {odd[0]!r} has a NUL byte, which no variable can have.")
    return environment


def _secret_files(spec: JobSpec, settings: AppSettings) -> dict[str, bytes]:
    if not spec.secret_files:
        return {}
    try:
        # The permissions were asked of whoever submitted the job; what is allowed at all is said here, for every row.
        for reference in spec.secret_files.values():
            required_permission(reference, settings.secrets)
        return {
            name: read_secret_bytes(reference, directory=settings.secrets_directory)
            for name, reference in spec.secret_files.items()
            if engine_secret(reference) is None
        }
    except (LookupError, ValueError) as error:
        raise Rejected("start", str(error.args[0])) from error


def adopted_secret_values(spec: JobSpec, settings: AppSettings) -> list[bytes]:
    """Return the values that the secrets of an attempt which another worker launched have now, as `secret_values`.

    Nothing else of the job is looked at: what is wrong with it must not leave its output unmasked. Raises Rejected for
    secrets that cannot be read here.
    """
    environment = _environment(spec, settings)
    variables = (os.fsencode(environment[name]) for name in spec.secrets if name in environment)
    return [*variables, *_secret_files(spec, settings).values()]


def secret_values(spec: LaunchSpec) -> list[bytes]:
    """Return the values of a launch's secrets, as far as the worker knows them: not those that the engine holds."""
    variables = (os.fsencode(spec.environment[name]) for name in spec.job.secrets if name in spec.environment)
    return [*variables, *spec.secret_files.values()]


def engine_references(spec: LaunchSpec) -> list[str]:
    """Return the references to secrets that the engine itself holds."""
    references = (*spec.job.secrets.values(), *spec.job.secret_files.values())
    return [reference for reference in references if engine_secret(reference) is not None]

"""The app's settings: ``CONTAINER_MANAGER`` in the project's settings, with a default for each entry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS

from .jobs.rules import is_count, is_line, is_path, is_positive, is_text, is_texts, is_whole, matches
from .jobs.secret_references import JOB_VARIABLES, MONITORING_VARIABLES

PROCESS_EXECUTOR = "container_manager.executors.process.ProcessExecutor"
_NAME = "CONTAINER_MANAGER"
_REFERENCES = re.compile(rf"env:{JOB_VARIABLES}[^\s/]*|file:[^\s/]+|kubernetes:[^\s/]+/[^\s/]+")
_MOST_DAYS = 36_500
_WHOLE = ("LOG_LIMIT_BYTES", "RESULT_LIMIT_BYTES")
_POSITIVE = (
    *("AUDIT_DAYS", "LEASE_SECONDS", "OUTAGE_SECONDS", "POLL_SECONDS", "STATISTICS_DAYS", "UNREACHABLE_SECONDS"),
    "UNSERVED_AFTER_SECONDS",
)
_TOKEN = re.compile(rf"env:{MONITORING_VARIABLES}\w+")
_PERMISSION = re.compile(r"(\w+\.\w+)?")
_FUNCTION = re.compile(r"(\w+(\.\w+)+)?")
_INSTALL = re.compile("[A-Za-z0-9-]*[A-Za-z0-9][A-Za-z0-9-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """When a failed job is retried.

    The n-th retry (counted from 1) waits ``initial_seconds * factor ** (n - 1)`` seconds, at most ``max_seconds``,
    then up to ``jitter`` of that more, drawn at random: exponential backoff with jitter, as in
    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/.
    ``reasons`` are the failure reasons worth a retry; an image or a program that is not there stays so.
    ``free_losses``: how many times an attempt may be lost (reason ``lost`` or ``node_lost``: its worker or engine
    ended, not the command) or not be launched (``unavailable``) without costing one of the job's retries; a job without
    retries is not run again.
    """

    initial_seconds: float = 15.0
    factor: float = 2.0
    max_seconds: float = 3600.0
    jitter: float = 0.1
    free_losses: int = 5
    reasons: tuple[str, ...] = ("error", "signal", "oom", "timeout", "unavailable", "node_lost", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """The most that each job of an executor gets, in whole numbers; None: what it asks for.

    ``timeout_seconds`` is also the timeout of a job that names none; one that asks for more fails with the reason
    ``start``. A job that asks for more ``max_retries`` or ``grace_seconds`` gets these.
    """

    timeout_seconds: int | None = None
    max_retries: int | None = None
    grace_seconds: int | None = None

    def retries(self, asked: int) -> int:
        """Return how many retries a job gets that asks for so many."""
        return asked if self.max_retries is None else min(asked, self.max_retries)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """All settings. Times are in seconds, sizes in bytes.

    ``executors``: alias → {"BACKEND": dotted path, "OPTIONS": {…}, "LIMITS": {…}}; see `JobLimits`.
    ``queues``: the known queue names; None: any.
    ``install``: part of every container's name, so that installations can share an engine.
    ``lease_seconds``: how long a worker's lease lasts; the worker renews it every third of that.
    ``outage_seconds``: how long local processes go on without a renewal of the lease, if that is longer than the lease;
    as long, other workers leave them alone, unless they see that the worker's process is gone.
    ``unreachable_seconds``: how long an engine may be unreachable before its attempts fail as lost.
    ``unschedulable_after_seconds``: how long a job may wait if neither the settings nor a live worker know its executor
    or queue, before it fails as unschedulable; None: it waits until a worker serves it.
    ``secrets``: which secrets jobs may name: a pattern such as ``"file:mail-*"`` → the permission that whoever submits
    the job needs, such as ``"shop.use_mail"``; "": none. ``secrets_directory``: the folder of ``file:`` references, on
    the worker's host. ``secret_files_directory``: a tmpfs where the worker puts jobs' secrets that are files; a Docker
    daemon must see it by the same path. ``mask_secrets``: whether ``***`` replaces secrets' values in stored output.
    ``result_limit_bytes``: how large the result of an attempt may be, as JSON.
    ``prune_after_seconds``: how long after a job has finished the workers prune it; None: never.
    ``visible_jobs``: the dotted path of a function ``(user, queryset) -> queryset`` that says which jobs a user sees in
    the dashboard, its API and the admin; "": all. ``read_only``: whether these three forbid every act, whoever asks.
    ``statistics_days``: for how many days the counts of each minute are kept.
    ``audit_days``: for how many days the dashboard keeps its audit entries, acts on all that match after their end, and
    API tokens after they have expired.
    ``monitoring_token``: where the token is that lets a client see metrics and health: ``env:CM_MONITORING_…``, or the
    path of a file; None: only users who may view jobs see them. ``unserved_after_seconds``: how long a due job may
    wait that no live worker serves, before the health view says so.
    """

    executors: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"default": {"BACKEND": PROCESS_EXECUTOR}}
    )
    queues: tuple[str, ...] | None = None
    install: str = "default"
    lease_seconds: float = 30.0
    outage_seconds: float = 120.0
    poll_seconds: float = 1.0
    unreachable_seconds: float = 60.0
    unschedulable_after_seconds: float | None = None
    prune_after_seconds: float | None = None
    statistics_days: float = 30.0
    audit_days: float = 365.0
    monitoring_token: str | None = None
    unserved_after_seconds: float = 300.0
    log_limit_bytes: int = 1024 * 1024
    result_limit_bytes: int = 64 * 1024
    secrets: Mapping[str, str] = field(default_factory=dict)
    secrets_directory: str = "/etc/container-manager/secrets"
    secret_files_directory: str = "/dev/shm"  # noqa: S105, S108  # a path; what is made there is closed to others
    mask_secrets: bool = True
    visible_jobs: str = ""
    read_only: bool = False
    retry: RetrySettings = field(default_factory=RetrySettings)

    def limits(self, alias: str) -> JobLimits | None:
        """Return what an executor's jobs get at most; None where nothing is limited."""
        given = self.executors.get(alias, {}).get("LIMITS")
        return JobLimits(**given) if given else None

    def allowed_retries(self, asked: int, *, executor: str) -> int:
        """Return how many retries a job of this executor gets that asks for so many."""
        limits = self.limits(executor)
        return asked if limits is None else limits.retries(asked)

    def for_database(self, alias: str) -> AppSettings:
        """Return the settings for a database: to an engine, each database is another installation."""
        return self if alias == DEFAULT_DB_ALIAS else replace(self, install=f"{self.install}-{alias}")


@cache
def app_settings() -> AppSettings:
    """Return the settings of this project.

    Raises ImproperlyConfigured that names every wrong entry and what it should be.
    """
    given = getattr(settings, _NAME, {})
    if problems := list(_problems(given)):
        raise ImproperlyConfigured(" ".join(problems))
    values = {name.lower(): value for name, value in given.items()}
    if "retry" in values:
        retry = {name.lower(): value for name, value in values["retry"].items()}
        if "reasons" in retry:
            retry["reasons"] = tuple(retry["reasons"])
        values["retry"] = RetrySettings(**retry)
    if values.get("queues") is not None:
        values["queues"] = tuple(values["queues"])
    return AppSettings(**values)


def sqlite_database(path: Path) -> dict[str, object]:
    """Return Django's database settings for an SQLite file that several processes write."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        # BEGIN IMMEDIATE: two transactions that both read first could not both go on to write.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }


def setting_problems() -> list[str]:
    """Return what is wrong with the settings, a sentence each."""
    return list(_problems(getattr(settings, _NAME, {})))


def _problems(given: object) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{_NAME} must be a dict, not {type(given).__name__}."
        return
    known = {f.name.upper() for f in fields(AppSettings)}
    for name in given:
        if name not in known:
            yield f"{_NAME}[{name!r}] is no setting. Known: {', '.join(sorted(known))}."
    for names, is_valid, kind in ((_WHOLE, is_count, "whole positive"), (_POSITIVE, is_positive, "positive")):
        for name in names:
            if name in given and not is_valid(given[name]):
                yield f"{_NAME}[{name!r}] must be a {kind} number, not {given[name]!r}."
    for name in ("PRUNE_AFTER_SECONDS", "UNSCHEDULABLE_AFTER_SECONDS"):
        if given.get(name) is not None and not is_positive(given[name]):
            yield f"{_NAME}[{name!r}] must be a positive number, or None for never, not {given[name]!r}."
    if "INSTALL" in given and not matches(_INSTALL)(given["INSTALL"]):
        yield f"{_NAME}['INSTALL'] must be letters, digits and hyphens, not {given['INSTALL']!r}."
    queues = given.get("QUEUES")
    if queues is not None and not (is_texts(queues) and queues and all(map(is_line, queues))):
        yield f"{_NAME}['QUEUES'] must be a list of names, or None for any, not {queues!r}."
    for name in ("STATISTICS_DAYS", "AUDIT_DAYS"):
        if is_positive(days := given.get(name, 1)) and days > _MOST_DAYS:
            yield f"{_NAME}[{name!r}] must be at most {_MOST_DAYS}, not {days!r}."
    yield from _access_problems(given)
    yield from _secret_problems(given)
    yield from _token_problems(given.get("MONITORING_TOKEN"))
    yield from _executor_problems(given.get("EXECUTORS", {"default": {"BACKEND": PROCESS_EXECUTOR}}))
    yield from _retry_problems(given.get("RETRY", {}))


def _access_problems(given: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(given.get("READ_ONLY", False), bool):
        yield f"{_NAME}['READ_ONLY'] must be True or False, not {given['READ_ONLY']!r}."
    if "VISIBLE_JOBS" in given and not matches(_FUNCTION)(given["VISIBLE_JOBS"]):
        yield (
            f"{_NAME}['VISIBLE_JOBS'] must be the dotted path of a function, such as 'shop.access.visible_jobs', or "
            f"'', not {given['VISIBLE_JOBS']!r}."
        )


def _secret_problems(given: Mapping[str, Any]) -> Iterator[str]:
    secrets = given.get("SECRETS", {})
    if not isinstance(secrets, Mapping) or not all(
        matches(_REFERENCES)(pattern) and matches(_PERMISSION)(permission) for pattern, permission in secrets.items()
    ):
        yield (
            f"{_NAME}['SECRETS'] must be a dict of patterns such as 'env:CM_SECRET_MAIL', 'file:mail-*' or "
            "'kubernetes:mail/*', each with "
            f"the permission that it needs, such as 'shop.use_mail', or '' for none, not {secrets!r}."
        )
    for name in ("SECRETS_DIRECTORY", "SECRET_FILES_DIRECTORY"):
        if name in given and not str(given[name]).startswith("/"):
            yield f"{_NAME}[{name!r}] must be an absolute path, not {given[name]!r}."
    if not isinstance(given.get("MASK_SECRETS", True), bool):
        yield f"{_NAME}['MASK_SECRETS'] must be True or False, not {given['MASK_SECRETS']!r}."


def _token_problems(token: object) -> Iterator[str]:
    if token is not None and not (matches(_TOKEN)(token) or is_path(token)):
        # Whoever has written the token itself finds it in no log.
        yield (
            f"{_NAME}['MONITORING_TOKEN'] must say where it is: 'env:{MONITORING_VARIABLES}NAME', or the path of a "
            "file; or None."
        )


def _executor_problems(executors: object) -> Iterator[str]:
    if not isinstance(executors, Mapping) or not executors:
        yield f"{_NAME}['EXECUTORS'] must be a dict with at least one alias."
        return
    for alias, entry in executors.items():
        where = f"{_NAME}['EXECUTORS'][{alias!r}]"
        if not is_line(alias):
            yield f"{where}: an alias is a text without control characters."
        if not isinstance(entry, Mapping) or not is_text(entry.get("BACKEND")):
            yield f"{where} needs a 'BACKEND', the dotted path of an executor class."
            continue
        if odd := sorted(set(entry) - {"BACKEND", "OPTIONS", "LIMITS"}):
            yield f"{where} has unknown keys {odd}; it takes 'BACKEND', 'OPTIONS' and 'LIMITS'."
        for name in ("OPTIONS", "LIMITS"):
            if not isinstance(entry.get(name, {}), Mapping):
                yield f"{where}[{name!r}] must be a dict."
        yield from _limit_problems(f"{where}['LIMITS']", entry.get("LIMITS"))


def _limit_problems(where: str, limits: object) -> Iterator[str]:
    known = [f.name for f in fields(JobLimits)]
    for name, value in limits.items() if isinstance(limits, Mapping) else ():
        if name not in known:
            yield f"{where} has no {name!r}. Known: {', '.join(known)}."
        elif value is not None and not is_whole(value):
            yield f"{where}[{name!r}] must be a whole number, 0 or more, or None for no limit, not {value!r}."


def _retry_problems(retry: object) -> Iterator[str]:
    if not isinstance(retry, Mapping):
        yield f"{_NAME}['RETRY'] must be a dict."
        return
    known = {f.name.upper() for f in fields(RetrySettings)}
    for name, value in retry.items():
        if name not in known:
            yield f"{_NAME}['RETRY'][{name!r}] is no setting. Known: {', '.join(sorted(known))}."
        elif name == "REASONS":
            if not is_texts(value):
                yield f"{_NAME}['RETRY']['REASONS'] must be a list of failure reasons, not {value!r}."
        elif name == "FREE_LOSSES":
            if not is_whole(value):
                yield f"{_NAME}['RETRY']['FREE_LOSSES'] must be a whole number, 0 or more, not {value!r}."
        elif not (is_positive(value) or (name == "JITTER" and value == 0)):
            yield f"{_NAME}['RETRY'][{name!r}] must be a positive number, not {value!r}."


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == _NAME:
        app_settings.cache_clear()


setting_changed.connect(_forget)

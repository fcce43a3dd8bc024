"""Run a worker in the foreground; the first SIGTERM, SIGINT or SIGHUP lets its jobs finish, the second ends it now."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..conf import app_settings
from ..executors.registry import build_executors
from ..worker import ThreadFailed, WorkerLoop, WorkerOptions
from .finding import Refused, unanswered, unclaimable, unguarded
from .log_lines import LINE_FORMATS, log_to_stderr
from .printing import Output
from .process_end import ended_by_signals

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--queue", action="append", metavar="NAME", help="Serve this queue only. Repeatable.")
    parser.add_argument("--executor", action="append", metavar="ALIAS", help="Serve this executor only. Repeatable.")
    parser.add_argument("--slots", type=int, default=_usable_cores(), help="Jobs at once. Default: %(default)s.")
    parser.add_argument("--drain", action="store_true", help="End when no job is due.")
    parser.add_argument("--once", action="store_true", help="Run one job if one is due, and end.")
    parser.add_argument("--max-jobs", type=int, help="End after this many jobs.")
    parser.add_argument(
        "--alive-file",
        type=Path,
        metavar="PATH",
        help="Touch this file at least three times within LEASE_SECONDS, for a probe that sees a worker which hangs.",
    )
    parser.add_argument("--log-level", choices=_LEVELS, help="Default: what the project's LOGGING says, or INFO.")
    parser.add_argument(
        "--log-format",
        default="plain",
        choices=sorted(LINE_FORMATS),
        help="How to log to stderr where the project's LOGGING has no handler. Default: %(default)s.",
    )


def run(options: Mapping[str, Any], out: Output) -> int:
    log_to_stderr(level=options["log_level"], lines=options["log_format"])
    settings = app_settings().for_database(options["database"])
    for name in ("slots", "max_jobs"):
        if options[name] is not None and options[name] < 1:
            raise ImproperlyConfigured(f"--{name.replace('_', '-')} must be at least 1, not {options[name]}.")
    unknown = sorted(set(options["queue"] or ()) - set(settings.queues or options["queue"] or ()))
    if unknown:
        raise ImproperlyConfigured(f"There is no queue {unknown[0]!r}. Known: {', '.join(settings.queues or ())}.")
    executors = build_executors(settings, options["executor"])
    worker = WorkerLoop(
        settings=settings,
        executors=executors,
        options=WorkerOptions(
            slots=1 if options["once"] else options["slots"],
            queues=tuple(options["queue"]) if options["queue"] else None,
            drain=options["drain"] or options["once"],
            max_jobs=1 if options["once"] else options["max_jobs"],
            using=options["database"],
            alive_file=_writable(options["alive_file"]),
        ),
    )
    try:
        with ended_by_signals(worker.stop):
            worker.run()
    except ThreadFailed as error:
        raise Refused(str(error)) from error
    if worker.left:
        raise Refused(f"The ends of {len(worker.left)} jobs could not be stored before the worker was told to end.")
    if worker.unguarded:
        raise unguarded(worker.unguarded, options["database"])
    if worker.gave_up:
        raise unanswered(worker.gave_up, "what is queued for it stays queued")
    if worker.unclaimable and (options["drain"] or options["once"]):
        raise unclaimable(worker.unclaimable)
    return 0


def _writable(path: Path | None) -> Path | None:
    """Return the path of a file that can be touched. Raises ImproperlyConfigured for another."""
    try:
        if path is not None:
            path.touch()
            # Until the first turn the worker does not work yet.
            path.unlink()
    except OSError as error:
        raise ImproperlyConfigured(f"--alive-file {path} cannot be written: {error.strerror}.") from error
    return path


def _usable_cores() -> int:
    """Return how many cores this process may use, where the system tells; a container may have fewer than its host."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

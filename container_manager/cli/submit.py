"""Queue a job for the workers and print its id."""

from __future__ import annotations

import shlex
from argparse import REMAINDER, ArgumentParser
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from django.utils import timezone

from ..conf import app_settings
from ..models import ContainerJob
from .base import Output, Refused, jobs, print_json


def add_arguments(parser: ArgumentParser) -> None:
    add_job_arguments(parser)
    parser.add_argument("--delay", type=float, metavar="SECONDS", help="Start no earlier than this from now.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: Mapping[str, Any], out: Output) -> int:
    job = create(options)
    delay = options["delay"]
    job.mark_as_queued(scheduled_for=None if delay is None else timezone.now() + timedelta(seconds=delay))
    if options["json"]:
        print_json(out, {"id": job.pk, "status": job.status})
    else:
        out.write(f"{job.pk}\n")
    return 0


def add_job_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that describe a job."""
    parser.add_argument("--name", default="", help="A name to find it by.")
    parser.add_argument("--image", default="", help="The container image; local processes need none.")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="Set a variable. Repeatable.")
    parser.add_argument(
        "--secret", action="append", default=[], metavar="NAME=REFERENCE", help="Set a variable from a secret."
    )
    parser.add_argument("--workdir", default="", help="The working directory.")
    parser.add_argument("--memory", type=_size, metavar="BYTES", help="Memory limit; k, m, g are understood.")
    parser.add_argument("--cpus", type=float, help="CPU limit in cores.")
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="Stop it after this time.")
    parser.add_argument("--grace", type=int, default=10, metavar="SECONDS", help="Between TERM and KILL.")
    parser.add_argument("--retries", type=int, default=3, help="How often to try again. Default: %(default)s.")
    parser.add_argument("--priority", type=int, default=50, help="0 to 100, higher first. Default: %(default)s.")
    parser.add_argument("--queue", default="default", help="Default: %(default)s.")
    parser.add_argument("--executor", default="default", help="Default: %(default)s.")
    parser.add_argument("command", nargs=REMAINDER, metavar="COMMAND …", help="The program and its arguments.")


def create(options: Mapping[str, Any]) -> ContainerJob:
    """Create the pending job that the arguments describe.

    Raises ValidationError and Refused.
    """
    settings = app_settings()
    if options["executor"] not in settings.executors:
        raise Refused(f"There is no executor {options['executor']!r}. Known: {', '.join(sorted(settings.executors))}.")
    if settings.queues is not None and options["queue"] not in settings.queues:
        raise Refused(f"There is no queue {options['queue']!r}. Known: {', '.join(settings.queues)}.")
    words = options["command"]
    return jobs(options).create_job(
        name=options["name"],
        image=options["image"],
        command=shlex.join(words[1:] if words[:1] == ["--"] else words),
        environment=_pairs(options["env"], "--env"),
        secrets=_pairs(options["secret"], "--secret"),
        working_directory=options["workdir"],
        memory_bytes=options["memory"],
        cpu_count=options["cpus"],
        timeout_seconds=options["timeout"],
        grace_seconds=options["grace"],
        max_retries=options["retries"],
        priority=options["priority"],
        queue=options["queue"],
        executor=options["executor"],
    )


def _pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, sign, _ in pairs:
        if not name or not sign:
            raise Refused(f"{option} takes NAME=VALUE, not {name!r}.")
    return {name: value for name, _, value in pairs}


def _size(text: str) -> int:
    units = {"k": 1024, "m": 1024**2, "g": 1024**3}
    unit = units.get(text[-1:].lower(), 1)
    return int(text[:-1] if text[-1:].lower() in units else text) * unit

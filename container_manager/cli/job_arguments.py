"""The arguments that describe a job, and the job that they mean."""

from __future__ import annotations

import shlex
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..conf import app_settings
from ..models import ContainerJob
from .finding import Refused, jobs

_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


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
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="A label. Repeatable.")
    _add_container_arguments(parser)
    parser.add_argument("command", nargs=REMAINDER, metavar="COMMAND …", help="The program and its arguments.")


def create_job(options: Mapping[str, Any]) -> ContainerJob:
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
        environment=dict(_pairs(options["env"], "--env", "NAME=VALUE")),
        secrets=dict(_pairs(options["secret"], "--secret", "NAME=REFERENCE")),
        working_directory=options["workdir"],
        memory_bytes=options["memory"],
        cpu_count=options["cpus"],
        timeout_seconds=options["timeout"],
        grace_seconds=options["grace"],
        max_retries=options["retries"],
        priority=options["priority"],
        queue=options["queue"],
        executor=options["executor"],
        labels=dict(_pairs(options["label"], "--label", "NAME=VALUE")),
        container=_container(options),
    )


def _add_container_arguments(parser: ArgumentParser) -> None:
    """Add what a job may ask of its container, by the names that docker has for it."""
    group = parser.add_argument_group("of its container", "What a job may have is the executor's settings' to say.")
    group.add_argument("--user", metavar="NAME[:GROUP]", help="Run as this user.")
    group.add_argument("--network", metavar="NAME", help="One of the networks that the executor allows.")
    group.add_argument(
        "--volume", action="append", metavar="NAME:PATH", help="Mount a volume of the executor's settings. Repeatable."
    )
    group.add_argument("--tmpfs", action="append", metavar="PATH:SIZE", help="Files in memory. Repeatable.")
    group.add_argument("--pids-limit", type=int, metavar="N", help="Processes and threads at most.")
    group.add_argument("--read-only", action=BooleanOptionalAction, help="Whether the image's files cannot be changed.")
    group.add_argument("--ulimit", action="append", metavar="NAME=VALUE", help="A limit, as nofile=1024. Repeatable.")
    group.add_argument("--gpus", type=_gpus, metavar="N", help='How many GPUs, or "all".')


def _container(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked for; the model says whether it makes sense."""
    asked = {
        "user": options["user"],
        "network": options["network"],
        "pids": options["pids_limit"],
        "read_only": options["read_only"],
        "gpus": options["gpus"],
        "volumes": _mapping(options["volume"], "--volume", "NAME:PATH"),
        "tmpfs": _mapping(options["tmpfs"], "--tmpfs", "PATH:SIZE", number=_size),
        "ulimits": _mapping(options["ulimit"], "--ulimit", "NAME=VALUE", number=int),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _mapping(
    texts: Iterable[str] | None, option: str, form: str, *, number: Callable[[str], int] | None = None
) -> dict[str, Any] | None:
    """Return pairs as a dict, their values as numbers where they should be; None where there are none.

    Raises Refused.
    """
    if texts is None:
        return None
    try:
        return {name: value if number is None else number(value) for name, value in _pairs(texts, option, form)}
    except (ValueError, ArgumentTypeError) as error:
        raise Refused(f"{option} takes {form}: {error}.") from error


def _pairs(texts: Iterable[str], option: str, form: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of the ``form``, the sign between them being the form's own; raise Refused."""
    sign = "=" if "=" in form else ":"
    for text in texts:
        name, found, value = text.partition(sign)
        if not name or not found:
            raise Refused(f"{option} takes {form}, not {text!r}.")
        yield name, value


def _size(text: str) -> int:
    number, unit = (text[:-1], _UNITS[text[-1].lower()]) if text[-1:].lower() in _UNITS else (text, 1)
    if not number.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no size such as 65536, 64k or 1g")
    return int(number) * unit


def _gpus(text: str) -> int:
    if text != "all" and not text.isdecimal():
        raise ArgumentTypeError(f'{text!r} is neither a number nor "all"')
    return -1 if text == "all" else int(text)

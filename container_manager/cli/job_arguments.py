"""Command-line arguments that describe a job; create the job from them."""

from __future__ import annotations

import shlex
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..conf import app_settings
from ..jobs.container_request import REQUEST_RULES
from ..jobs.option import Option
from ..jobs.sizes import bytes_of
from ..jobs.spec import OPTIONS
from ..models import ContainerJob
from .finding import Refused, job_queryset

_CONTAINER = "container_"


def add_job_arguments(parser: ArgumentParser) -> None:
    """Add an option for each field of a job, and for each thing that it may request of its container."""
    for name, option in OPTIONS.items():
        field: Any = ContainerJob._meta.get_field(name)
        default = None if option.kind in _REPEATABLE else field.get_default()
        _add_option(parser.add_argument, name, option, default=default)
    group = parser.add_argument_group("of its container", "What a job may have is the executor's settings' to say.")
    for name, rule in REQUEST_RULES.items():
        _add_option(group.add_argument, _CONTAINER + name, rule.option, default=None)
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
    asked = {name: _value(rule.option, options[_CONTAINER + name]) for name, rule in REQUEST_RULES.items()}
    given = {name: _value(option, options[name]) for name, option in OPTIONS.items()}
    return job_queryset(options).create_job(
        # The model's default applies to a field that was left out.
        **{name: value for name, value in given.items() if value is not None},
        command=shlex.join(words[1:] if words[:1] == ["--"] else words),
        container={name: value for name, value in asked.items() if value is not None},
        # Whoever has this shell has the project's settings and code.
        actor="command line",
    )


def _add_option(add_argument: Callable[..., object], dest: str, option: Option, *, default: Any) -> None:
    settings: dict[str, Any] = {"dest": dest, "default": default, "help": option.help}
    if option.kind == "flag":
        settings["action"] = BooleanOptionalAction
    else:
        settings["metavar"] = option.metavar
        settings.update({"action": "append"} if option.kind in _REPEATABLE else {"type": _PARSERS[option.kind]})
        if default not in (None, ""):
            settings["help"] += " Default: %(default)s."
    add_argument(option.flag, **settings)


def _value(option: Option, given: Any) -> Any:
    """Return an option's value, or None if it was not given. Raises Refused for a malformed pair."""
    if given is None or option.kind not in _PAIRS:
        return given
    form = str(option.metavar)
    try:
        return {name: _PAIRS[option.kind](value) for name, value in _pairs(given, option.flag, form)}
    except (ValueError, ArgumentTypeError) as error:
        raise Refused(f"{option.flag} takes {form}: {error}.") from error


def _pairs(texts: Iterable[str], flag: str, form: str) -> Iterator[tuple[str, str]]:
    """Split each text as ``form`` shows (``NAME=VALUE`` or ``PATH:SIZE``). Raises Refused."""
    sign = "=" if "=" in form else ":"
    for text in texts:
        name, found, value = text.partition(sign)
        if not name or not found:
            raise Refused(f"{flag} takes {form}, not {text!r}.")
        yield name, value


def _size(text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if text != "all" and not text.isdecimal():
        raise ArgumentTypeError(f'{text!r} is neither a number nor "all"')
    return -1 if text == "all" else int(text)


# By the kind of an `Option`.
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "text": str,
    "integer": int,
    "number": float,
    "size": _size,
    "count": _count,
}
_PAIRS: Mapping[str, Callable[[str], Any]] = {"texts": str, "integers": int, "sizes": _size}
_REPEATABLE = {"list", *_PAIRS}

"""What a job requests of its container beyond image, command and memory: the field ``container``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from .option import Option
from .rules import is_count, is_mapping, is_path, matches

# No system has longer names.
_USER = re.compile(r"[A-Za-z0-9_.-]{1,255}(:[A-Za-z0-9_.-]{1,255})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ULIMIT = re.compile(r"[a-z]+")
# The kernel needs memory of its own for each.
_MOST_TMPFS = 64
# Of a wrong value, in a message.
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class RequestRule:
    """What one entry must be (as a test and in words), and its command-line option."""

    is_right: Callable[[Any], bool]
    expected: str | Promise
    option: Option


def _rule(is_right: Callable[[Any], bool], expected: str | Promise, option: Option, **default: Any) -> Any:
    return field(metadata={"rule": RequestRule(is_right, expected, option)}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRequest:
    """What a job requests. The executor's settings decide what it gets.

    ``user``: name or id, with a group after a colon; "": the image's. ``pids``: processes and threads at most.
    ``read_only``: whether the image's files cannot be changed; None: the executor's default. ``tmpfs``: absolute path →
    bytes of memory. ``ulimits``: name as in getrlimit, in small letters → value. ``volumes``: name in the executor's
    settings → absolute path. ``network``: one of the executor's settings; "": its default. ``gpus``: how many; -1: all.
    """

    user: str = _rule(
        matches(_USER),
        _('a user such as "1000" or "app:app"'),
        Option("--user", "NAME[:GROUP]", help="Run as this user."),
        default="",
    )
    pids: int | None = _rule(
        is_count,
        _("a positive number"),
        Option("--pids-limit", "N", kind="integer", help="Processes and threads at most."),
        default=None,
    )
    read_only: bool | None = _rule(
        lambda value: isinstance(value, bool),
        _("true or false"),
        Option("--read-only", kind="flag", help="Whether the image's files cannot be changed."),
        default=None,
    )
    tmpfs: Mapping[str, int] = _rule(
        is_mapping(is_path, is_count, most=_MOST_TMPFS),
        _("an object of absolute paths and sizes in bytes"),
        Option("--tmpfs", "PATH:SIZE", kind="sizes", help="Files in memory. Repeatable."),
        default_factory=dict,
    )
    ulimits: Mapping[str, int] = _rule(
        is_mapping(matches(_ULIMIT), is_count),
        _('an object of limits, such as {"nofile": 1024}'),
        Option("--ulimit", "NAME=VALUE", kind="integers", help="A limit, as nofile=1024. Repeatable."),
        default_factory=dict,
    )
    volumes: Mapping[str, str] = _rule(
        is_mapping(matches(_NAME), is_path),
        _("an object of the settings' volume names and absolute paths"),
        Option("--volume", "NAME:PATH", kind="texts", help="Mount a volume of the executor's settings. Repeatable."),
        default_factory=dict,
    )
    network: str = _rule(
        matches(_NAME),
        _("the name of a network"),
        Option("--network", "NAME", help="One of the networks that the executor allows."),
        default="",
    )
    gpus: int = _rule(
        lambda value: is_count(value) or value == -1,
        _("a positive number, or -1 for all"),
        Option("--gpus", "N", kind="count", help='How many GPUs, or "all".'),
        default=0,
    )


# Name of the entry → its rule.
REQUEST_RULES: Mapping[str, RequestRule] = {each.name: each.metadata["rule"] for each in fields(ContainerRequest)}
_NOTHING = ContainerRequest()


def container_request(value: object) -> ContainerRequest:
    """Parse the field ``container`` of a job.

    Raises ValueError that names what is wrong, and what it may be.
    """
    if not isinstance(value, Mapping):
        raise ValueError(_("It must be a JSON object, not %(type)s.") % {"type": type(value).__name__})
    for name, given in value.items():
        if name not in REQUEST_RULES:
            known = ", ".join(REQUEST_RULES)
            raise ValueError(_("%(name)r is not known. Known: %(known)s.") % {"name": name, "known": known})
        rule = REQUEST_RULES[name]
        if not rule.is_right(given):
            shown = repr(given)
            shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]} …"
            text = _("%(name)r must be %(expected)s, not %(value)s.")
            raise ValueError(text % {"name": name, "expected": rule.expected, "value": shown})
    return ContainerRequest(**value) if value else _NOTHING

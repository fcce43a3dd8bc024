"""What a job asks of its container beyond image, command and memory: the job's column ``container``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

_USER = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ULIMIT = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRequest:
    """What a job asks for. What it may have is the executor's to say.

    ``user``: name or id, with a group after a colon; "": the image's. ``pids``: processes and threads at most.
    ``read_only``: whether the image's files cannot be changed; None: the executor's default. ``tmpfs``: absolute path →
    bytes of memory. ``ulimits``: name as in getrlimit, in small letters → value. ``volumes``: name in the executor's
    settings → absolute path. ``network``: one of the executor's settings; "": its default. ``gpus``: how many; -1: all.
    """

    user: str = ""
    pids: int | None = None
    read_only: bool | None = None
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    ulimits: Mapping[str, int] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    gpus: int = 0


_NOTHING = ContainerRequest()


def container_request(value: object) -> ContainerRequest:
    """Return what a job's column means.

    Raises ValueError that names what is wrong, and what it may be.
    """
    if not isinstance(value, Mapping):
        raise ValueError(_("It must be a JSON object, not %(type)s.") % {"type": type(value).__name__})
    for name, given in value.items():
        if name not in _RULES:
            known = ", ".join(f.name for f in fields(ContainerRequest))
            raise ValueError(_("%(name)r is not known. Known: %(known)s.") % {"name": name, "known": known})
        is_right, expected = _RULES[name]
        if not is_right(given):
            text = _("%(name)r must be %(expected)s, not %(value)r.")
            raise ValueError(text % {"name": name, "expected": expected, "value": given})
    return ContainerRequest(**value) if value else _NOTHING


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_path(value: object) -> bool:
    return (
        isinstance(value, str) and value.startswith("/") and not any(part in value for part in ("\0", "\n", ":", ".."))
    )


def _is_mapping(is_key: Callable[[Any], object], is_value: Callable[[Any], object]) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return isinstance(value, Mapping) and all(is_key(key) and is_value(item) for key, item in value.items())

    return check


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


_RULES: Mapping[str, tuple[Callable[[Any], bool], str | Promise]] = {
    "user": (_matches(_USER), _('a user such as "1000" or "app:app"')),
    "pids": (_is_count, _("a positive number")),
    "read_only": (lambda value: isinstance(value, bool), _("true or false")),
    "tmpfs": (_is_mapping(_is_path, _is_count), _("an object of absolute paths and sizes in bytes")),
    "ulimits": (_is_mapping(_matches(_ULIMIT), _is_count), _('an object of limits, such as {"nofile": 1024}')),
    "volumes": (
        _is_mapping(_matches(_NAME), _is_path),
        _("an object of the settings' volume names and absolute paths"),
    ),
    "network": (_matches(_NAME), _("the name of a network")),
    "gpus": (lambda value: _is_count(value) or value == -1, _("a positive number, or -1 for all")),
}

# What each wish must be, in words.
WISHES: Mapping[str, str | Promise] = {name: rule[1] for name, rule in _RULES.items()}

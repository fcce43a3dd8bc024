"""Small validators of values from settings and JSON columns. They change nothing and never raise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from math import inf
from typing import Any, TypeGuard

from .printable import check_printable
from .sizes import check_path


def is_text(value: object) -> bool:
    """Tell whether it is a text that is not empty."""
    return isinstance(value, str) and bool(value)


def is_line(value: object) -> TypeGuard[str]:
    """Tell whether it is a text of one printable line, perhaps empty."""
    if not isinstance(value, str):
        return False
    try:
        check_printable(value)
    except ValueError:
        return False
    return True


def is_texts(value: object) -> bool:
    """Tell whether it is a list or tuple of texts, none of them empty."""
    return isinstance(value, list | tuple) and all(map(is_text, value))


def is_positive(value: object) -> bool:
    """Tell whether it is a number above zero and not infinite; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


def is_count(value: object) -> bool:
    """Tell whether it is a whole number above zero."""
    return isinstance(value, int) and is_positive(value)


def is_whole(value: object) -> bool:
    """Tell whether it is a whole number, 0 or more; False is none."""
    return is_count(value) or (type(value) is int and value == 0)


def is_flag(value: object) -> bool:
    """Tell whether it is true or false."""
    return isinstance(value, bool)


def is_path(value: object) -> bool:
    """Tell whether it is an absolute path that stays below what it names, and can stand in ``SOURCE:TARGET``."""
    if not is_line(value) or not value.startswith("/") or any(part in value for part in (":", "..")):
        return False
    with suppress(ValueError):
        check_path(value)
        return True
    return False


def is_address(value: object) -> bool:
    """Tell whether it is the text of an IPv4 or IPv6 address."""
    if not isinstance(value, str):
        return False
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def or_none(is_right: Callable[[Any], object]) -> Callable[[object], bool]:
    """Return the rule for None, and for what follows another rule."""
    return lambda value: value is None or bool(is_right(value))


def is_mapping(
    is_key: Callable[[Any], object], is_value: Callable[[Any], object], *, most: float = inf
) -> Callable[[object], bool]:
    """Return the rule for a mapping of at most so many entries, whose keys and values follow rules of their own."""

    def check(value: object) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) <= most
            and all(is_key(key) and is_value(item) for key, item in value.items())
        )

    return check


def is_list(is_item: Callable[[Any], object], *, most: float = inf) -> Callable[[object], bool]:
    """Return the rule for a list of at most so many items, which follow a rule of their own."""
    return lambda value: isinstance(value, list | tuple) and len(value) <= most and all(map(is_item, value))


def matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    """Return the rule for a text that a pattern matches as a whole."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


# The name of an object of a cluster, as its API server checks it.
is_object_name = matches(re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9.-]*[a-z0-9])?"))

"""Validate the environment variables of a job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from django.utils.translation import gettext_lazy as _

from .printable import check_printable

_NAME = re.compile(r"[^=\s\x00-\x1f\x7f]+")
# Of variables that tell a job who it is.
RESERVED = "CONTAINER_MANAGER_"


def check_names(variables: Iterable[str]) -> None:
    """Raise ValueError for a name that no environment variable can have, or that no job may set."""
    for name in variables:
        if not _NAME.fullmatch(name):
            raise ValueError(_("%(name)r cannot be the name of an environment variable.") % {"name": name})
        if name.startswith(RESERVED):
            text = _("A job cannot set %(name)r: names that begin with %(reserved)s are the worker's.")
            raise ValueError(text % {"name": name, "reserved": RESERVED})
        _check(name, name)


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise ValueError for a name or value that no environment variable can have.

    Whoever reads variables by lines must not be told of one that is none, so a value is one line. A key or a
    certificate has more, and is a secret.
    """
    check_names(environment)
    for name, value in environment.items():
        if any(odd in value for odd in "\n\r\0"):
            text = _("The value of %(name)r is more than one line. Give such a value as a secret.")
            raise ValueError(text % {"name": name})
        _check(name, value, allowed="\t")


def _check(name: str, text: str, *, allowed: str = "") -> None:
    try:
        check_printable(text, allowed=allowed)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error

"""Validate the environment variables of a job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from django.utils.translation import gettext_lazy as _

_NAME = re.compile(r"[^=\s\x00-\x1f\x7f]+")


def check_names(variables: Iterable[str]) -> None:
    """Raise ValueError for a name that no environment variable can have."""
    for name in variables:
        if not _NAME.fullmatch(name):
            raise ValueError(_("%(name)r cannot be the name of an environment variable.") % {"name": name})


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

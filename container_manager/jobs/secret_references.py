"""References to secrets: which ones jobs may name, and their values on the worker's host, never stored or logged."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from django.utils.translation import gettext_lazy as _

from .printable import check_printable

# Whoever can create jobs can read variables with this prefix, as far as they are allowed, and no other of the worker.
JOB_VARIABLES = "CM_SECRET_"
# Registry passwords: only the settings can refer to these.
REGISTRY_VARIABLES, REGISTRY_FILES = "CM_REGISTRY_", "registries"
# The token of whoever monitors: not a job's, nor a registry's.
MONITORING_VARIABLES = "CM_MONITORING_"
_FILE = re.compile(r"[A-Za-z0-9_.-]{1,255}")
# As the API server of a cluster checks the name of a Secret, and a key in it.
_ENGINE_SECRET = re.compile(
    r"kubernetes:(?P<name>(?=[^/]{1,253}/)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)/(?P<key>(?!\.\.)[A-Za-z0-9_.-]{1,253})"
)


class EngineSecret(NamedTuple):
    """A secret that the engine itself holds, by its name and a key in it: the worker never sees the value."""

    name: str
    key: str


def engine_secret(reference: str) -> EngineSecret | None:
    """Return what ``kubernetes:NAME/KEY`` refers to; None for a reference of another kind."""
    found = _ENGINE_SECRET.fullmatch(reference)
    return EngineSecret(found["name"], found["key"]) if found else None


def read_secret(reference: str, *, directory: str | Path, variables: str = JOB_VARIABLES) -> str:
    """Return the value that ``env:NAME`` or ``file:NAME`` stands for, without a newline at a file's end.

    Raises what `read_secret_bytes` raises, and LookupError where it is not UTF-8.
    """
    value = read_secret_bytes(reference, directory=directory, variables=variables)
    try:
        text = value.decode()
    except ValueError as error:
        raise _unreadable(reference, error) from error
    return text.removesuffix("\n") if reference.startswith("file:") else text


def read_secret_bytes(reference: str, *, directory: str | Path, variables: str = JOB_VARIABLES) -> bytes:
    """Return what ``env:NAME`` or ``file:NAME`` stands for.

    Only variables that begin with ``variables``, and files in ``directory`` itself, can be named. Raises LookupError,
    without the value, where there is none.
    """
    kind, _, name = str(reference).partition(":")
    if kind == "env" and name.startswith(variables):
        if name in os.environ:
            return os.fsencode(os.environ[name])
        raise LookupError(f"The worker has no variable {name!r} for the secret reference {reference!r}.")
    if kind == "file" and name and Path(name).name == name and name not in (".", ".."):
        try:
            return (Path(directory) / name).read_bytes()
        except (OSError, ValueError) as error:
            raise _unreadable(reference, error) from error
    of_cluster = ", nor, of a cluster, kubernetes:NAME/KEY" if variables == JOB_VARIABLES else ""
    raise LookupError(f"The secret reference {reference!r} is neither env:{variables}NAME nor file:NAME{of_cluster}.")


def read_token(reference: str) -> str:
    """Return the token that ``env:NAME`` or the path of a file stands for, without white space around it.

    Raises LookupError, without the value, where there is none.
    """
    if not reference.startswith("/"):
        token = read_secret(reference, directory="/", variables=MONITORING_VARIABLES)
    else:
        try:
            token = Path(reference).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise _unreadable(reference, error) from error
    if not token.strip():
        raise LookupError(f"The secret {reference!r} is empty.")
    return token.strip()


def required_permission(reference: str, allowed: Mapping[str, str]) -> str:
    """Return the permission that the first pattern which matches a reference asks for, "" for none.

    Raises ValueError for a reference that no pattern allows.
    """
    check_printable(reference)
    for pattern, permission in allowed.items():
        if fnmatchcase(reference, pattern):
            return permission
    patterns = ", ".join(allowed) or _("none")
    text = _("The secret %(reference)r is not allowed. Allowed by the setting SECRETS: %(patterns)s.")
    raise ValueError(text % {"reference": reference, "patterns": patterns})


def check_file_names(names: Iterable[str]) -> None:
    """Raise ValueError for what cannot be the name of a secret's file."""
    for name in names:
        if not _FILE.fullmatch(name) or name in (".", ".."):
            text = _("%(name)r cannot be a secret's file: a name has letters, digits, dots, hyphens and underscores.")
            raise ValueError(text % {"name": name})


def _unreadable(reference: str, error: Exception) -> LookupError:
    return LookupError(f"The secret {reference!r} cannot be read: {type(error).__name__}.")

"""Resolve secret references on the worker's host. Values are never stored or logged."""

from __future__ import annotations

import os
from pathlib import Path

# Whoever can create jobs can read variables with this prefix, and no other variable of the worker.
JOB_VARIABLES = "CM_SECRET_"
# Registry passwords: only the settings can refer to these.
REGISTRY_VARIABLES, REGISTRY_FILES = "CM_REGISTRY_", "registries"


def read_secret(reference: str, *, directory: str | Path, variables: str = JOB_VARIABLES) -> str:
    """Return the value that ``env:NAME`` or ``file:NAME`` stands for.

    Only variables that begin with ``variables``, and files in ``directory`` itself, can be named. Raises LookupError,
    without the value, where there is none.
    """
    kind, _, name = str(reference).partition(":")
    if kind == "env" and name.startswith(variables):
        if name in os.environ:
            return os.environ[name]
        raise LookupError(f"The worker has no variable {name!r} for the secret reference {reference!r}.")
    if kind == "file" and name and Path(name).name == name and name not in (".", ".."):
        try:
            return (Path(directory) / name).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            raise LookupError(f"The secret {reference!r} cannot be read: {type(error).__name__}.") from error
    raise LookupError(f"The secret reference {reference!r} is neither env:{variables}NAME nor file:NAME.")

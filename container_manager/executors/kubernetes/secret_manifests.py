"""The Secret of an attempt: the values that its job has as variables and files, and no other object has them."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from ..base import LaunchSpec, Rejected
from .labels import INSTALL_ANNOTATION, INSTALL_LABEL, KEY_ANNOTATION, KEY_LABEL, label_value, object_name

# The API server's limit of a Secret's values together.
_MOST_BYTES = 1024 * 1024


def secret_manifest(spec: LaunchSpec, *, install: str, owner: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the Secret with the values that the job has as variables and files; None where it has none.

    ``owner``: the ``metadata`` of its Job, whose name it has and with which the cluster deletes it. So it is created
    after the Job: the pod waits for it. A Secret of this name that is there already (409) is the attempt's own.
    Raises Rejected for what no Secret can have.
    """
    if (data := _data(spec)) is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": object_name(spec.key),
            "labels": {INSTALL_LABEL: label_value(install), KEY_LABEL: label_value(spec.key)},
            "annotations": {INSTALL_ANNOTATION: install, KEY_ANNOTATION: spec.key},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}],
        },
        "data": {name: b64encode(value).decode() for name, value in data.items()},
    }


def check_secrets(spec: LaunchSpec) -> None:
    """Raise Rejected for what no Secret can have, before anything is created."""
    _data(spec)


def variable_key(spec: LaunchSpec, name: str) -> str:
    """Return the key of a variable's value: by number, since a variable's name may be none that a key can have."""
    return f"variable-{list(spec.job.secrets).index(name)}"


def file_key(spec: LaunchSpec, name: str) -> str:
    """Return the key of a file's content."""
    return f"file-{list(spec.secret_files).index(name)}"


def _data(spec: LaunchSpec) -> dict[str, bytes] | None:
    if odd := [name for name in (*spec.secret_files, *spec.job.secret_files) if name.startswith("..")]:
        raise Rejected("start", f"The secret file {odd[0]!r} cannot have a name that begins with two dots in a pod.")
    data = {
        variable_key(spec, name): os.fsencode(spec.environment[name])
        for name in spec.job.secrets
        if name in spec.environment
    }
    data |= {file_key(spec, name): content for name, content in spec.secret_files.items()}
    if (size := sum(map(len, data.values()))) > _MOST_BYTES:
        raise Rejected("start", f"The job's secrets have {size} bytes together; a Secret takes {_MOST_BYTES}.")
    return data or None

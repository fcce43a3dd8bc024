"""Translate an attempt into the objects that run it: pure functions that apply the allow-lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import LaunchSpec
from .kubernetes_options import KubernetesOptions


def job_manifest(spec: LaunchSpec, options: KubernetesOptions, *, install: str) -> dict[str, Any]:
    """Return the ``batch/v1`` Job of an attempt, as the API's JSON; its name is `labels.object_name` of the key.

    No secret's value is in it. Raises Rejected where the job requests what the options do not allow, or what no
    cluster can give.
    """
    raise NotImplementedError


def secret_manifest(spec: LaunchSpec, *, install: str, owner: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the Secret with the values that the job has as variables and files; None where it has none.

    ``owner``: the ``metadata`` of its Job, whose name it has and with which the cluster deletes it. So it is created
    after the Job: the pod waits for it. A Secret of this name that is there already (409) is the attempt's own.
    """
    raise NotImplementedError

"""The manifests of `deploy/kubernetes`, as the API takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
# Where its jobs run.
JOBS_NAMESPACE = "container-manager-jobs"


def resources() -> list[str]:
    """Return the files that the kustomization lists, in its order."""
    return list(yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["resources"])


def manifests() -> Iterator[dict[str, Any]]:
    """Yield all objects."""
    for name in resources():
        yield from yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))


def manifest(kind: str, *, namespace: str | None = None) -> dict[str, Any]:
    """Return the one object of a kind, in a namespace where there are several."""
    [found] = [
        each for each in manifests() if each["kind"] == kind and namespace in (None, each["metadata"].get("namespace"))
    ]
    return found

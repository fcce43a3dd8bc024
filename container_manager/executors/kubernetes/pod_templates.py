"""Merge the settings' ``pod_template`` into the pod of an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Lists whose items are merged by a key, as Kubernetes' strategic merge has it. Any other list replaces ours.
_KEYS: Mapping[str, str] = {
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def merged(value: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another merged into it, at any depth. Neither changes."""
    found = dict(value)
    for name, given in override.items():
        ours = found.get(name)
        if isinstance(ours, Mapping) and isinstance(given, Mapping):
            found[name] = merged(ours, given)
        elif isinstance(ours, list) and isinstance(given, list | tuple) and name in _KEYS:
            found[name] = _merged_list(ours, given, _KEYS[name])
        else:
            found[name] = given
    return found


def _merged_list(ours: list[Any], given: list[Any] | tuple[Any, ...], key: str) -> list[Any]:
    by_key = {item.get(key): item for item in ours}
    for item in given:
        by_key[item.get(key)] = merged(by_key.get(item.get(key), {}), item)
    return list(by_key.values())

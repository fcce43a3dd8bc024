"""Which limits a daemon can hold, read from what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# The limit, as options and jobs name it → what the daemon calls it, and what it says of itself where it can hold it.
_CONTROLLERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "memory_bytes": (("Memory", "MemorySwap"), ("MemoryLimit",)),
    "cpu_count": (("NanoCpus",), ("CpuCfsPeriod", "CpuCfsQuota")),
    "pids": (("PidsLimit",), ("PidsLimit",)),
}
_STORAGE = "storage_bytes"
_STORAGE_DRIVERS = ("btrfs", "devicemapper", "windowsfilter", "zfs")
# These have project quotas, which the file system must have too.
_QUOTA_DRIVERS, _QUOTA_FILE_SYSTEMS = ("overlay2", "vfs"), ("xfs",)


def missing_limits(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the limits that a daemon cannot hold, each with the reason; ``info``: what it says of itself.

    What it does not mention it is taken to hold.
    """
    rootless = "name=rootless" in (info.get("SecurityOptions") or ())
    where = "it is rootless, and was given no such control group" if rootless else "its host has no such control group"
    missing = {
        name: f"{where} ({', '.join(flags)})"
        for name, (_, flags) in _CONTROLLERS.items()
        if not all(info.get(flag, True) for flag in flags)
    }
    driver, file_system = info.get("Driver", ""), dict(info.get("DriverStatus") or ()).get("Backing Filesystem")
    if driver not in _STORAGE_DRIVERS and not (driver in _QUOTA_DRIVERS and file_system in _QUOTA_FILE_SYSTEMS):
        on = f" on {file_system}" if file_system else ""
        missing[_STORAGE] = f"its storage driver {driver}{on} limits no container"
    return missing


def take_limits(host: dict[str, Any], missing: Mapping[str, str]) -> list[str]:
    """Take those limits out of a container's configuration; return the names of those that it had."""
    named = {**{name: keys for name, (keys, _) in _CONTROLLERS.items()}, _STORAGE: ("StorageOpt",)}
    return [name for name in missing if [host.pop(key) for key in named[name] if host.get(key)]]


def warnings(info: Mapping[str, Any], *, storage: bool) -> Iterator[str]:
    """Yield what a daemon cannot do, in our words and in its own; ``storage``: whether containers get such a limit."""
    for name, why in missing_limits(info).items():
        if storage or name != _STORAGE:
            yield f"The limit {name} is not in force: {why}."
    if not info.get("SwapLimit", True):
        yield "Jobs with a memory limit may use swap in addition: its host does not account for swap."
    for line in info.get("Warnings") or ():
        yield str(line).removeprefix("WARNING: ")

"""The engines that speak Docker's API, and where they differ: one value per engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# When the last file is full, a new one begins and the oldest is dropped: with only one file, all would be dropped. A
# reader may miss or repeat some output at that moment (measured with 20.10).
_LOG_FILES = 2
_DOCKER_25_API = (1, 44)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """An engine behind Docker's API.

    ``log_driver``: one that keeps any bytes and can be read back. ``log_files``: whether it takes a number of files.
    ``follows_logs``: whether a log that is followed is complete. ``drops_newlines``: whether the log lacks the newline
    of a line that is longer than a frame. ``has_identity``: whether /info tells an ID that stays the same.
    ``forgets_events``: whether events are gone after a crash, which is how one is noticed; otherwise a container tells
    by itself whether a start was begun. ``unlearnt_codes``: the exit codes that it gives a container which had ended
    when it started, and whose end it could not learn. ``takes_no_copy``: whether a mount's ``NoCopy`` is obeyed.
    ``has_gpus``: whether it gives a container the GPUs that it asks for.
    """

    name: str
    log_driver: str
    log_files: bool
    follows_logs: bool
    drops_newlines: bool
    has_identity: bool
    forgets_events: bool
    unlearnt_codes: frozenset[int]
    takes_no_copy: bool
    has_gpus: bool

    def log_configuration(self, log_bytes: int) -> dict[str, Any]:
        """Return the container's ``LogConfig``: at least this much output is kept, as far as the engine can."""
        files = {"max-file": str(_LOG_FILES), "compress": "false"} if self.log_files else {}
        return {"Type": self.log_driver, "Config": {"max-size": str(log_bytes), **files}}


# The default log driver, json-file, replaces bytes that are not UTF-8.
DOCKER = Flavour(
    name="Docker",
    log_driver="local",
    log_files=True,
    follows_logs=True,
    drops_newlines=True,
    has_identity=True,
    forgets_events=True,
    # containerd's, where it has killed what was left of a container, and since 24.0.5 the daemon's own.
    unlearnt_codes=frozenset({255}),
    takes_no_copy=True,
    has_gpus=True,
)
# Where containerd knows nothing of a container, it has succeeded (`restore` in daemon/daemon.go, as in Docker 20.10).
DOCKER_BEFORE_25 = replace(DOCKER, unlearnt_codes=frozenset({0, 255}))
# Measured with 4.3: its json-file is k8s-file; a log that is followed loses lines which are being written; its ID is
# another one in each answer; its events are in a file; NoCopy and requests for GPUs are ignored without a word.
PODMAN = Flavour(
    name="Podman",
    log_driver="k8s-file",
    log_files=False,
    follows_logs=False,
    drops_newlines=False,
    has_identity=False,
    forgets_events=False,
    # A process of its own waits for each container, and writes its exit code to a file.
    unlearnt_codes=frozenset(),
    takes_no_copy=False,
    has_gpus=False,
)


def flavour_of(version: Mapping[str, Any]) -> Flavour:
    """Return the engine's flavour, by its answer to /version."""
    components = version.get("Components") or ()
    if any("podman" in str(part.get("Name", "")).lower() for part in components):
        return PODMAN
    api = tuple(int(number) for number in str(version.get("ApiVersion", "")).split(".") if number.isdecimal())
    return DOCKER if api >= _DOCKER_25_API else DOCKER_BEFORE_25

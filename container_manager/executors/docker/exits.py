"""Translate the daemon's description of a container's end into an exit status."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from ...jobs.signal_names import exit_code_of, signal_of
from ..base import ExitStatus, Phase

# The daemon's states of a container, and podman's own: `initialized`, `stopping`, `stopped`.
PHASES = {
    "created": Phase.CREATED,
    "initialized": Phase.CREATED,
    "running": Phase.RUNNING,
    "paused": Phase.RUNNING,
    "restarting": Phase.RUNNING,
    "stopping": Phase.RUNNING,
    "stopped": Phase.EXITED,
    "exited": Phase.EXITED,
    "dead": Phase.EXITED,
}

# The daemon's time of what has never happened.
_NEVER = "0001-01-01"
_KILLED = exit_code_of(signal.SIGKILL)
# The init process's exit codes where it could not start the command: other reasons, not executable, not found.
INIT_FAILURES = (1, 126, 127)
_INIT_SAYS = re.compile(r"\[FATAL tini \(\d+\)\] exec (?P<program>.*) failed: (?P<why>[^\n]+)", re.DOTALL)
# Podman's, catatonit, which names no program.
_PODMAN_INIT_SAYS = re.compile(r"ERROR \(catatonit:\d+\): failed to exec pid1: (?P<why>.+)")
# The message where the init process itself could not be started: its arguments are the command's.
_RUNTIME_SAYS = re.compile(r"exec (/sbin/docker-init|/dev/init|/run/podman-init): (?P<why>.+)")


def exit_status(
    state: Mapping[str, Any],
    *,
    memory_bytes: int = 0,
    is_known: bool = True,
    out_of_memory: bool = False,
    complaint: str = "",
    program: str = "",
) -> ExitStatus:
    """Return how a container ended.

    ``state``: as inspected. ``memory_bytes``: its limit; 0: none. ``is_known``: whether the exit code is certainly the
    container's own. ``out_of_memory``: whether an event said so, which the state may not show. ``complaint``: all that
    came on stderr: where a command could not be started, only the init process has written. ``program``: what was to be
    started. A command that exits with 0 has succeeded, even if a child of it ran out of memory.
    """
    code = int(state["ExitCode"])
    if state.get("Status") == "dead" and str(state.get("StartedAt", "")).startswith(_NEVER):
        # The daemon could not remove it.
        return ExitStatus(lost=True, message="Its container was removed before it was started.")
    if not is_known:
        return ExitStatus(
            lost=True,
            message="Its container ended while its daemon was away, or with its machine. The daemon reports the exit "
            f"code {code}, as it does where it could not learn it.",
        )
    if code in INIT_FAILURES and (words := _INIT_SAYS.fullmatch(complaint.strip())):
        return ExitStatus(
            code=code, unstarted=True, message=f"{words['program']!r} could not be started: {words['why']}."
        )
    if code in INIT_FAILURES and (words := _PODMAN_INIT_SAYS.fullmatch(complaint.strip())):
        return ExitStatus(code=code, unstarted=True, message=f"{program!r} could not be started: {words['why']}.")
    if code in INIT_FAILURES and (words := _RUNTIME_SAYS.fullmatch(complaint.strip())):
        return ExitStatus(code=code, unstarted=True, message=f"The command could not be started: {words['why']}.")
    oom = code != 0 and (bool(state.get("OOMKilled")) or out_of_memory)
    message = _out_of_memory(memory_bytes) if oom else str(state.get("Error") or "")
    if code == _KILLED and memory_bytes and not oom and not message:
        # The daemon misses some out-of-memory kills (3 to 10 in a hundred, measured with 20.10).
        message = f"Ended by signal 9 (SIGKILL). Perhaps it was out of memory (limit: {memory_bytes} bytes)."
    return ExitStatus(code=code, signal=None if oom else signal_of(code), oom=oom, message=message)


def may_be_out_of_memory(found: Mapping[str, Any]) -> bool:
    """Return whether a container, as inspected, may have run out of memory though its state does not say so."""
    state = found["State"]
    return bool(state["ExitCode"] == _KILLED and not state.get("OOMKilled") and found["HostConfig"].get("Memory"))


def _out_of_memory(limit: int) -> str:
    """Return what to say of a container; ``limit``: the one in force, the job's own or its executor's; 0: none."""
    if limit:
        return f"Out of memory (limit: {limit} bytes). Give it more by memory_bytes, as far as its executor allows."
    return "Out of memory: its host had no more. Limit the memory of jobs there by the option 'memory_bytes'."

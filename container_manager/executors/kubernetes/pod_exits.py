"""Decide from a Job and its pods how an attempt ended: pure functions.

Only positive evidence makes a success: the recorded pod's own container ended by itself with 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...jobs.signal_names import signal_of
from ..base import RESULT_VARIABLE, ExitStatus
from .api_fields import (
    LAST_PHASES,
    NODE_GIVEN_UP,
    UNSTARTED_ENDS,
    api_time,
    conditions,
    deletion_asked_at,
    disruption,
    end_reported_at,
    is_bound,
    main_status,
    phase_of,
    terminated,
    with_evidence,
)
from .job_manifests import MOST_RESULT_BYTES
from .labels import CONTAINER

_UNKNOWN_CODE, _START_CODE = 255, 128
# How a kubelet says that it does not know how a container ended: after a restart of its node, most often.
_UNKNOWN_ENDS = ("ContainerStatusUnknown", "Unknown")
# The conditions that a pod has before its container is started, and keeps.
_BEFORE_START = ("PodScheduled", "Initialized")
# A kubelet evicts the pod, or makes room for a critical one, or its node shuts down: it says so with the end.
_STOPPED_BY_NODE = "TerminationByKubelet"
# What a kubelet says of a pod that has used more files than the pod itself may have. What else it evicts is the node's.
_OWN_USE = re.compile(r"exceeded its local ephemeral storage limit|usage exceeds the total limit|exceeds the limit")
_UNREAD_RESULT = "Error on reading termination"


def pod_exit(
    pod: Mapping[str, Any],
    *,
    asked_at: datetime | None = None,
    ended_at: datetime | None = None,
    is_gone: bool = False,
    is_twice: bool = False,
) -> ExitStatus | None:
    """Return how the recorded pod's program ended; None while that is not certain.

    ``asked_at``: when its deletion was asked for, as seen first. ``ended_at``: by when its end was reported
    (`end_reported_at`), as seen first. ``is_gone``: the API has the pod no more, and this was its last state.
    ``is_twice``: its container was seen to be started again.
    """
    ended = terminated(pod)
    if ended is None:
        return _exit_without_container(pod) if phase_of(pod) in LAST_PHASES else None
    if not (is_gone or phase_of(pod) in LAST_PHASES or _others_run(pod)):
        # It may still be revised.
        return None
    if is_twice or int(main_status(pod).get("restartCount") or 0):
        return ExitStatus(
            code=int(ended["exitCode"]),
            lost=True,
            message="The node started the program a second time, so its verdict is worth nothing: it was stopped.",
        )
    return _container_exit(pod, ended, asked_at, ended_at or end_reported_at(pod))


def _container_exit(
    pod: Mapping[str, Any], ended: Mapping[str, Any], asked_at: datetime | None, ended_at: datetime | None
) -> ExitStatus:
    code, why = int(ended["exitCode"]), str(ended.get("reason") or "")
    said = str(ended.get("message") or "")
    if why in _UNKNOWN_ENDS or (why == "Error" and code == _UNKNOWN_CODE and not ended.get("containerID")):
        return node_lost(f"The node does not know how the container ended ({why}, {code}): it was restarted, perhaps.")
    if why in UNSTARTED_ENDS or (code == _START_CODE and why.endswith("StartError")):
        return ExitStatus(code=code, unstarted=True, message=f"The command could not be started: {said or why}")
    if (stopped := _stopped_by_node(pod, code)) is not None:
        return stopped
    result, refused = _result(pod, ended)
    if why == "OOMKilled" and code:
        return ExitStatus(code=code, oom=True, message=_out_of_memory(pod), result=result, result_refused=refused)
    if from_outside := _disrupted_before(pod, ended, asked_at, ended_at) or _refused_by_node(pod, ended):
        return ExitStatus(code=code, signal=signal_of(code), lost=True, message=from_outside)
    return ExitStatus(code=code, signal=signal_of(code), result=result, result_refused=refused)


def _exit_without_container(pod: Mapping[str, Any]) -> ExitStatus:
    """Return the end of a pod that has its last phase, and whose container the kubelet has not reported as ended."""
    status = pod.get("status") or {}
    why, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if (stopped := _stopped_by_node(pod, None)) is not None:
        return stopped
    if (disrupted := disruption(pod)) in NODE_GIVEN_UP or why in ("NodeLost", "Shutdown", "NodeShutdown", "Terminated"):
        proven = disrupted not in NODE_GIVEN_UP and why != "NodeLost"
        return node_lost(
            with_evidence("The pod was given up with its node", disrupted or why, message), may_run=not proven
        )
    last = (main_status(pod).get("lastState") or {}).get("terminated") or {}
    if last.get("reason") in _UNKNOWN_ENDS:
        said = str(last.get("message") or "")
        return node_lost(with_evidence("The node does not know how the container ended", str(last["reason"]), said))
    if main_status(pod).get("state"):
        text = with_evidence("The pod has ended, and nobody knows how its container did", why, message)
        return ExitStatus(lost=True, message=text)
    # Its kubelet would not have it: it has less room than the scheduler believed, for example.
    return ExitStatus(lost=True, message=with_evidence("Its node did not start the pod", why, message))


def gone_exit(
    pod: Mapping[str, Any] | None,
    *,
    asked_at: datetime | None = None,
    ended_at: datetime | None = None,
    is_twice: bool = False,
) -> ExitStatus:
    """Return the end of the recorded pod, which the API has no more; ``pod``: its last known state."""
    if pod is None:
        return ExitStatus(
            lost=True, may_run=True, message="Its pod is gone, and nobody has seen how its program ended."
        )
    ended = pod_exit(pod, asked_at=asked_at, ended_at=ended_at, is_gone=True, is_twice=is_twice)
    if ended is not None:
        return ended
    if (why := disruption(pod)) in NODE_GIVEN_UP:
        return node_lost(with_evidence("The pod was given up with its node", why, ""), may_run=True)
    return ExitStatus(
        lost=True,
        may_run=is_bound(pod),
        message="Its pod was deleted, and its node has not said how the program ended.",
    )


def unreachable_exit(pod: Mapping[str, Any]) -> ExitStatus:
    """Return the end of a pod that the control plane gave up on, while the API still has it as running."""
    node = (pod.get("spec") or {}).get("nodeName")
    return node_lost(
        f"The node {node!r} does not answer ({disruption(pod)}), and the pod's grace period is over. Its program may "
        "still run there.",
        may_run=True,
    )


def jobs_own_end(job: Mapping[str, Any]) -> ExitStatus | None:
    """Return the end of a Job that has ended without any pod that was recorded; None where it goes on."""
    found = conditions(job)
    failed = found.get("Failed") or found.get("FailureTarget")
    if failed is not None:
        why, message = str(failed.get("reason") or ""), str(failed.get("message") or "")
        return ExitStatus(
            lost=True, may_run=True, message=with_evidence("The Job failed, and its pod is gone", why, message)
        )
    if "Complete" in found:
        text = "The Job says that it is complete, but its pod is gone: nobody can tell whether its program succeeded."
        return ExitStatus(lost=True, message=text)
    return None


def node_lost(message: str, *, may_run: bool = False) -> ExitStatus:
    return ExitStatus(lost=True, reason="node_lost", message=message, may_run=may_run)


def _others_run(pod: Mapping[str, Any]) -> bool:
    """Tell whether only containers that the cluster has added keep a pod from its last phase."""
    listed = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("running" in (each.get("state") or {}) for each in listed if each.get("name") != CONTAINER)


def _stopped_by_node(pod: Mapping[str, Any], code: int | None) -> ExitStatus | None:
    """Return the end of a pod that its node has stopped by a rule of its own; None for any other."""
    status = pod.get("status") or {}
    why, message = status.get("reason"), str(status.get("message") or "").strip()
    if why == "DeadlineExceeded":
        seconds = (pod.get("spec") or {}).get("activeDeadlineSeconds")
        text = f"Its node stopped it after {seconds} s (activeDeadlineSeconds): no worker had by the job's timeout."
        return ExitStatus(code=code, reason="timeout", message=text)
    if why != "Evicted":
        return None
    if _OWN_USE.search(message):
        return ExitStatus(code=code, reason="error", message=f"The job used more files than it may have: {message}")
    return ExitStatus(code=code, lost=True, message=f"Its node evicted the pod: {message}")


def _disrupted_before(
    pod: Mapping[str, Any], ended: Mapping[str, Any], asked_at: datetime | None, ended_at: datetime | None
) -> str | None:
    """Return what to say where the cluster, or somebody, had the pod end before its program did by itself.

    Only times of one clock are compared: a stop that the control plane has noted with the time by which it had the
    node's report of the end. They have whole seconds: what happened in the same one counts as before. A kubelet dates
    its own stop with the report, after the end that it has caused: that says nothing of which came first.
    """
    condition = conditions(pod).get("DisruptionTarget")
    metadata = pod["metadata"]
    if asked_at is None and metadata.get("deletionTimestamp"):
        # Nobody can tell any more when it was asked for.
        asked_at = deletion_asked_at(pod) or datetime.min.replace(tzinfo=UTC)
    stops = [asked_at, api_time((condition or {}).get("lastTransitionTime"))]
    came_before = any(stop is not None and (ended_at is None or ended_at >= stop) for stop in stops)
    if not came_before and disruption(pod) != _STOPPED_BY_NODE:
        return None
    why, message = str((condition or {}).get("reason") or ""), str((condition or {}).get("message") or "")
    return with_evidence(_stopped_with(ended), why, message)


def _refused_by_node(pod: Mapping[str, Any], ended: Mapping[str, Any]) -> str | None:
    """Return what to say where a restarted kubelet would not have the pod any more, and had it end.

    It puts its refusal in the place of the pod's whole status, and builds that again once the container has ended: with
    its reason where the exit code was not 0, else as a success. What was dated before the start is dated after it then.
    """
    status = pod.get("status") or {}
    if (why := str(status.get("reason") or "")) and phase_of(pod) == "Failed":
        return with_evidence(_stopped_with(ended), why, str(status.get("message") or ""))
    started_at, found = api_time(ended.get("startedAt")), conditions(pod)
    dated = [api_time((found.get(kind) or {}).get("lastTransitionTime")) for kind in _BEFORE_START]
    if started_at is None or not all(at is not None and at > started_at for at in dated):
        return None
    return with_evidence(_stopped_with(ended), "", "its node's kubelet was restarted, and refused the pod")


def _stopped_with(ended: Mapping[str, Any]) -> str:
    code = int(ended["exitCode"])
    return f"The pod was stopped from outside before its program had ended by itself; its exit code was {code}"


def _out_of_memory(pod: Mapping[str, Any]) -> str:
    listed = (pod.get("spec") or {}).get("containers") or ()
    ours: Mapping[str, Any] = next((each for each in listed if each.get("name") == CONTAINER), {})
    limit = ((ours.get("resources") or {}).get("limits") or {}).get("memory")
    if limit:
        return f"Out of memory (limit: {limit} bytes). Give it more by memory_bytes, as far as its executor allows."
    return "Out of memory: its node had no more. Limit the memory of jobs there by the option 'memory_bytes'."


def _result(pod: Mapping[str, Any], ended: Mapping[str, Any]) -> tuple[bytes | None, str]:
    """Return the result that a job has left, and why it was not read."""
    listed = (pod.get("spec") or {}).get("containers") or ()
    ours: Mapping[str, Any] = next((each for each in listed if each.get("name") == CONTAINER), {})
    if not any(each.get("name") == RESULT_VARIABLE for each in ours.get("env") or ()):
        return None, ""
    said = str(ended.get("message") or "")
    if said.startswith(_UNREAD_RESULT):
        return None, said
    data = said.encode(errors="surrogateescape")
    if len(data) > MOST_RESULT_BYTES:
        return None, f"A cluster keeps no result of more than {MOST_RESULT_BYTES} bytes."
    return data or None, ""

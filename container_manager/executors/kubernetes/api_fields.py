"""What the fields of Jobs, pods and events say, as the API shows them: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from .labels import CONTAINER

# How a container ended that was never started.
UNSTARTED_ENDS = ("StartError", "ContainerCannotRun")
LAST_PHASES = ("Succeeded", "Failed")
# The control plane gave up on the node: the container may still run there.
NODE_GIVEN_UP = ("DeletionByTaintManager", "DeletionByPodGC")


def uid_of(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["uid"])


def version_of(found: Mapping[str, Any]) -> int:
    """Return an object's version as a number: those of one object grow (they are compared so since Kubernetes 1.35)."""
    try:
        return int(found["metadata"].get("resourceVersion", 0))
    except ValueError:
        return 0


def api_time(text: object) -> datetime | None:
    """Return a time of the API, which has whole seconds but for events."""
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


def event_time(event: Mapping[str, Any]) -> str:
    """Return when an event happened last, as the API's text; these sort."""
    series = event.get("series") or {}
    found = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(found or (event.get("metadata") or {}).get("creationTimestamp") or "")


def conditions(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return an object's conditions that are true, by type."""
    listed = (found.get("status") or {}).get("conditions") or ()
    return {each["type"]: each for each in listed if each.get("status") == "True"}


def main_status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the status of the job's container; empty where the kubelet has not reported any."""
    listed = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((each for each in listed if each.get("name") == CONTAINER), {})


def phase_of(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def is_bound(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod has a node: one without has certainly run nothing."""
    return bool((pod.get("spec") or {}).get("nodeName"))


def has_started(pod: Mapping[str, Any]) -> bool:
    """Tell whether the job's container was started, or the pod has ended without it."""
    status = main_status(pod)
    state, last = status.get("state") or {}, status.get("lastState") or {}
    return "running" in state or bool(state.get("terminated") or last) or phase_of(pod) in LAST_PHASES


def has_run(pod: Mapping[str, Any]) -> bool:
    """Tell whether the job's program was seen to run.

    Of a pod that is deleted before its container was created the kubelet says that it does not know how that ended.
    """
    status = main_status(pod)
    state, last = status.get("state") or {}, status.get("lastState") or {}
    ended = state.get("terminated") or {}
    return "running" in state or bool(last or (ended.get("startedAt") and ended.get("reason") not in UNSTARTED_ENDS))


def is_over(pod: Mapping[str, Any]) -> bool:
    """Tell whether nothing of the job's container will run any more, by the kubelet's own report."""
    return phase_of(pod) in LAST_PHASES and (not main_status(pod) or terminated(pod) is not None)


def counted_pods(job: Mapping[str, Any]) -> int:
    """Return how many pods a Job's status tells of, whether they run, end, or have ended."""
    status = job.get("status") or {}
    return sum(int(status.get(name) or 0) for name in ("active", "terminating", "succeeded", "failed"))


def never_resumed(job: Mapping[str, Any]) -> bool:
    """Tell whether a Job was created suspended, and its controller has made no pod of it."""
    is_suspended = bool((job.get("spec") or {}).get("suspend"))
    return is_suspended and not (job.get("status") or {}).get("startTime")


def deletion_asked_at(pod: Mapping[str, Any]) -> datetime | None:
    """Return when a pod's deletion was asked for; None: it was not, or nobody can tell any more.

    The kubelet's own last deletion, with no grace period, sets the time again after the container's end.
    """
    metadata = pod["metadata"]
    grace = metadata.get("deletionGracePeriodSeconds")
    if (at := api_time(metadata.get("deletionTimestamp"))) is None or not grace:
        return None
    return at - timedelta(seconds=int(grace))


def end_reported_at(pod: Mapping[str, Any]) -> datetime | None:
    """Return by when a pod's node had reported its container's end, by the API server's clock; None: nobody says.

    The times in the report itself are by the node's own clock, which may be wrong.
    """
    if terminated(pod) is None:
        return None
    reports = [
        api_time(each.get("time"))
        for each in pod["metadata"].get("managedFields") or ()
        if "f:containerStatuses" in ((each.get("fieldsV1") or {}).get("f:status") or {})
    ]
    return max((at for at in reports if at is not None), default=None)


def disruption(pod: Mapping[str, Any]) -> str:
    """Return why the cluster ends or has ended a pod; "" where it does not."""
    return str((conditions(pod).get("DisruptionTarget") or {}).get("reason") or "")


def terminated(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the end of the job's container as the kubelet reports it; None: it has not ended, or nobody says so."""
    found = (main_status(pod).get("state") or {}).get("terminated")
    return found if isinstance(found, Mapping) else None


def with_evidence(what: str, reason: str, message: str) -> str:
    """Return what happened with its evidence in the cluster's own words."""
    return f"{what}{f' ({reason})' if reason else ''}{f': {message.strip()}' if message.strip() else '.'}"

"""Decide from a Job, its pod and events what an attempt waits for before its program starts: pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .api_fields import conditions, is_bound, main_status, with_evidence
from .labels import CONTAINER, KUEUE_QUEUE_LABEL

# Problems with an image that no waiting mends.
_IMAGE_FINAL = ("InvalidImageName", "ErrImageNeverPull")
_IMAGE_PROBLEMS = (
    *("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"),
    *_IMAGE_FINAL,
)
_IMAGE_REFUSED = re.compile(
    r"not found|manifest unknown|name unknown|repository does not exist|may require authorization|access denied"
    r"|insufficient_scope|authorization failed|unauthorized|denied|\b40[134] |no match for platform"
    r"|invalid reference format",
    re.IGNORECASE,
)
# Such words also stand in errors of connections and of registries that are out of order.
_IMAGE_TRANSIENT = re.compile(
    r"connection refused|i/o timeout|no such host|timeout|too many requests|toomanyrequests|\b(429|5\d\d)\b|EOF"
    r"|connection reset|no route to host|network is unreachable|TLS handshake",
    re.IGNORECASE,
)
_CONFIG_PROBLEMS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
# Such a problem where it is the node's: it could not ask the cluster for a Secret in time, or its runtime was too slow.
_NODE_TOO_SLOW = re.compile(
    r"failed to sync \w+ cache|timed out|deadline ?exceeded|services have not yet been read|is reserved for"
    r"|connection refused|dial tcp|i/o timeout",
    re.IGNORECASE,
)
# What admission says where waiting changes nothing; all else may change: a quota is freed, a webhook comes back.
_ADMISSION_FINAL = re.compile(
    r"violates PodSecurity|denied (?:the )?request|is invalid:|(maximum|minimum) \S+ usage per|"
    r"max limit to request ratio|must specify (limits|requests)|unable to validate against any security context"
)
_QUOTA = re.compile(r"exceeded quota|failed quota|forbidden: .*quota")
_CONFIG_MISSING = re.compile(r"(secret|configmap|serviceaccount|persistentvolumeclaim)s? \S* ?not found|not found")
# Events of a pod whose node cannot start it yet, and of these what is the job's own fault: too little memory for a pod.
_NODE_PROBLEMS = ("FailedCreatePodSandBox", "FailedMount", "FailedAttachVolume", "FailedPrepareDynamicResources")
_TOO_SMALL = re.compile(r"cgroup.*cannot allocate memory|memory limit too low|OOM-killed", re.DOTALL)


class LaunchWait(NamedTuple):
    """What an attempt that was submitted waits for before its program starts.

    ``what``: in words. ``kind``: which clock runs: ``image`` (a pull that fails), ``config`` (an object that is
    missing, or memory that is too small to start in), ``node`` (its node cannot start the pod), ``schedule`` (no node
    takes it), ``held`` (none: it waits for somebody's leave). ``final``: the failure reason where waiting changes
    nothing, or "". ``is_doubtful``: whether it may be its node's fault, and is only believed after a while.
    """

    what: str
    kind: Literal["image", "config", "node", "schedule", "held"]
    final: str = ""
    is_doubtful: bool = False


def launch_wait(
    job: Mapping[str, Any] | None, pod: Mapping[str, Any] | None, events: Sequence[Mapping[str, Any]] = ()
) -> LaunchWait:
    """Return what an attempt waits for whose program has not started; ``events``: warnings about its Job or pod."""
    said = str(events[-1].get("message") or "") if events else ""
    if pod is None:
        return _wait_without_pod(job or {}, said)
    if not is_bound(pod):
        return _wait_for_node(pod)
    waiting = (main_status(pod).get("state") or {}).get("waiting") or {}
    why, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    image = _image_of(pod)
    if why in _IMAGE_PROBLEMS:
        is_refused = why not in _IMAGE_FINAL and is_final_image_problem(message)
        final = "image" if is_refused or why in _IMAGE_FINAL else ""
        # A kubelet that has not got a login within a second pulls without it, and tries again later.
        is_doubtful = is_refused and bool(pod["spec"].get("imagePullSecrets"))
        return LaunchWait(with_evidence(f"the image {image!r}", why, message), "image", final, is_doubtful)
    if why in _CONFIG_PROBLEMS:
        is_slow = _NODE_TOO_SLOW.search(message) is not None
        return LaunchWait(with_evidence("what its container needs", why, message), "node" if is_slow else "config")
    return _wait_to_start(pod, events) or LaunchWait(f"the image {image!r}, and its node to start it", "held")


def _wait_to_start(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> LaunchWait | None:
    """Return why a node cannot start a pod, by the latest event that says so; None where none does.

    It is over once the pod has all but its container: an event stays for an hour.
    """
    found = next((each for each in reversed(events) if each.get("reason") in _NODE_PROBLEMS), None)
    if found is None or "PodReadyToStartContainers" in conditions(pod):
        return None
    why, message = str(found["reason"]), str(found.get("message") or "")
    if _CONFIG_MISSING.search(message):
        return LaunchWait(with_evidence("what its pod needs", why, message), "config")
    is_own = _TOO_SMALL.search(message) is not None
    return LaunchWait(with_evidence("its node to start the pod", why, message), "config" if is_own else "node")


def _wait_for_node(pod: Mapping[str, Any]) -> LaunchWait:
    listed = (pod.get("status") or {}).get("conditions") or ()
    scheduled: Mapping[str, Any] = next((each for each in listed if each.get("type") == "PodScheduled"), {})
    why, message = str(scheduled.get("reason") or ""), str(scheduled.get("message") or "")
    if why == "SchedulingGated":
        return LaunchWait("somebody to lift the pod's scheduling gates", "held")
    return LaunchWait(f"a node: {message}" if message else "a node", "schedule")


def _wait_without_pod(job: Mapping[str, Any], said: str) -> LaunchWait:
    if (job.get("spec") or {}).get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(KUEUE_QUEUE_LABEL)
        if queue:
            return LaunchWait(
                f"Kueue to admit it from its local queue {queue!r}, which must exist in this namespace", "held"
            )
        return LaunchWait("somebody to resume its Job, which is suspended", "held")
    if not said:
        return LaunchWait("the cluster to create its pod", "held")
    return LaunchWait(f"the cluster to admit its pod: {said}", *admission(said))


def admission(said: str) -> tuple[Literal["config", "held"], str]:
    """Return which clock runs while admission refuses a pod with these words, and the failure reason if it is final."""
    if _QUOTA.search(said):
        return "held", ""
    if _ADMISSION_FINAL.search(said):
        return "held", "start"
    return ("config" if _CONFIG_MISSING.search(said) else "held"), ""


def is_final_image_problem(message: str) -> bool:
    """Tell whether a registry has answered that it has no such image, or does not give it."""
    return bool(_IMAGE_REFUSED.search(message)) and not _IMAGE_TRANSIENT.search(message)


def _image_of(pod: Mapping[str, Any]) -> str:
    listed: Iterable[Mapping[str, Any]] = (pod.get("spec") or {}).get("containers") or ()
    return next((str(each.get("image")) for each in listed if each.get("name") == CONTAINER), "")

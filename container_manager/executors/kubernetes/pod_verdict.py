"""Decide from a Job and its pods how far an attempt has come, how it ended, and what it waits for: pure functions.

Only positive evidence makes a success: the recorded pod's own container ended by itself with 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from ...jobs.signal_names import signal_of
from ..base import RESULT_VARIABLE, ExitStatus
from .job_manifests import MOST_RESULT_BYTES
from .labels import CONTAINER, KUEUE_QUEUE_LABEL

_UNKNOWN_CODE, _START_CODE = 255, 128
# How a kubelet says that it does not know how a container ended: after a restart of its node, most often.
_UNKNOWN_ENDS = ("ContainerStatusUnknown", "Unknown")
_UNSTARTED_ENDS = ("StartError", "ContainerCannotRun")
_LAST_PHASES = ("Succeeded", "Failed")
# The control plane gave up on the node: the container may still run there.
NODE_GIVEN_UP = ("DeletionByTaintManager", "DeletionByPodGC")
# The conditions that a pod has before its container is started, and keeps.
_BEFORE_START = ("PodScheduled", "Initialized")
# A kubelet evicts the pod, or makes room for a critical one, or its node shuts down: it says so with the end.
_STOPPED_BY_NODE = "TerminationByKubelet"
# What a kubelet says of a pod that has used more files than the pod itself may have. What else it evicts is the node's.
_OWN_USE = re.compile(r"exceeded its local ephemeral storage limit|usage exceeds the total limit|exceeds the limit")
_UNREAD_RESULT = "Error on reading termination"
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


# -- parts of the API's objects ------------------------------------------------------------------------------------


def uid_of(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["uid"])


def api_time(text: object) -> datetime | None:
    """Return a time of the API, which has whole seconds but for events."""
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


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
    return "running" in state or bool(state.get("terminated") or last) or phase_of(pod) in _LAST_PHASES


def has_run(pod: Mapping[str, Any]) -> bool:
    """Tell whether the job's program was seen to run.

    Of a pod that is deleted before its container was created the kubelet says that it does not know how that ended.
    """
    status = main_status(pod)
    state, last = status.get("state") or {}, status.get("lastState") or {}
    ended = state.get("terminated") or {}
    return "running" in state or bool(last or (ended.get("startedAt") and ended.get("reason") not in _UNSTARTED_ENDS))


def is_over(pod: Mapping[str, Any]) -> bool:
    """Tell whether nothing of the job's container will run any more, by the kubelet's own report."""
    return phase_of(pod) in _LAST_PHASES and (not main_status(pod) or _terminated(pod) is not None)


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

    The kubelet's own last deletion, with no grace period, sets the time anew after the container's end.
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
    if _terminated(pod) is None:
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


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = (main_status(pod).get("state") or {}).get("terminated")
    return found if isinstance(found, Mapping) else None


# -- ends ----------------------------------------------------------------------------------------------------------


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
    ended = _terminated(pod)
    if ended is None:
        return _exit_without_container(pod) if phase_of(pod) in _LAST_PHASES else None
    if not (is_gone or phase_of(pod) in _LAST_PHASES or _others_run(pod)):
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
    if why in _UNSTARTED_ENDS or (code == _START_CODE and why.endswith("StartError")):
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
        return node_lost(_words("The pod was given up with its node", disrupted or why, message), may_run=not proven)
    last = (main_status(pod).get("lastState") or {}).get("terminated") or {}
    if last.get("reason") in _UNKNOWN_ENDS:
        said = str(last.get("message") or "")
        return node_lost(_words("The node does not know how the container ended", str(last["reason"]), said))
    if main_status(pod).get("state"):
        text = _words("The pod has ended, and nobody knows how its container did", why, message)
        return ExitStatus(lost=True, message=text)
    # Its kubelet would not have it: it has less room than the scheduler believed, for example.
    return ExitStatus(lost=True, message=_words("Its node did not start the pod", why, message))


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
        return node_lost(_words("The pod was given up with its node", why, ""), may_run=True)
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
        return ExitStatus(lost=True, may_run=True, message=_words("The Job failed, and its pod is gone", why, message))
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
    return _words(_stopped_with(ended), why, message)


def _refused_by_node(pod: Mapping[str, Any], ended: Mapping[str, Any]) -> str | None:
    """Return what to say where a kubelet that was started anew would not have the pod any more, and had it end.

    It puts its refusal in the place of the pod's whole status, and makes that anew once the container has ended: with
    its reason where the exit code was not 0, else as a success. What was dated before the start is dated after it then.
    """
    status = pod.get("status") or {}
    if (why := str(status.get("reason") or "")) and phase_of(pod) == "Failed":
        return _words(_stopped_with(ended), why, str(status.get("message") or ""))
    started_at, found = api_time(ended.get("startedAt")), conditions(pod)
    dated = [api_time((found.get(kind) or {}).get("lastTransitionTime")) for kind in _BEFORE_START]
    if started_at is None or not all(at is not None and at > started_at for at in dated):
        return None
    return _words(_stopped_with(ended), "", "its node's kubelet was started anew, and refused the pod")


def _stopped_with(ended: Mapping[str, Any]) -> str:
    code = int(ended["exitCode"])
    return f"The pod was stopped from outside before its program had ended by itself; its exit code was {code}"


def _words(what: str, reason: str, message: str) -> str:
    """Return what happened with its evidence in the cluster's own words."""
    return f"{what}{f' ({reason})' if reason else ''}{f': {message.strip()}' if message.strip() else '.'}"


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


# -- launches ------------------------------------------------------------------------------------------------------


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
        return LaunchWait(_words(f"the image {image!r}", why, message), "image", final, is_doubtful)
    if why in _CONFIG_PROBLEMS:
        is_slow = _NODE_TOO_SLOW.search(message) is not None
        return LaunchWait(_words("what its container needs", why, message), "node" if is_slow else "config")
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
        return LaunchWait(_words("what its pod needs", why, message), "config")
    is_own = _TOO_SMALL.search(message) is not None
    return LaunchWait(_words("its node to start the pod", why, message), "config" if is_own else "node")


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

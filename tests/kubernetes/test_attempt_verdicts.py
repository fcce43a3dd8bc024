"""What becomes of an attempt: by its pod's end, by all that was seen of it, and by what its launch waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from container_manager.executors.base import RESULT_VARIABLE, ExitStatus, Phase
from container_manager.executors.kubernetes.cluster_attempt import ClusterAttempt, PodRecord
from container_manager.executors.kubernetes.job_manifests import MOST_RESULT_BYTES
from container_manager.executors.kubernetes.launch_waits import admission, is_final_image_problem, launch_wait
from container_manager.executors.kubernetes.pod_exits import gone_exit, pod_exit

from .pods import node_report

pytestmark = pytest.mark.without_database

ENDED_AT = "2026-11-29T10:00:10Z"
BEFORE, SAME, AFTER = "2026-11-29T10:00:09Z", ENDED_AT, "2026-11-29T10:00:11Z"


def terminated(code: int, **fields: Any) -> dict[str, Any]:
    reason = "Completed" if code == 0 else "Error"
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "startedAt": "2026-11-29T10:00:00Z",
            "finishedAt": ENDED_AT,
            "containerID": "containerd://1",
            **fields,
        }
    }


def pod(
    state: dict[str, Any] | None = None, *, phase: str = "", status: dict[str, Any] | None = None, **metadata: Any
) -> dict[str, Any]:
    """Return a pod with a node, in the API's words; without a phase it has the one that fits its container."""
    if not phase:
        ended = (state or {}).get("terminated")
        phase = "Running" if ended is None else "Failed" if ended["exitCode"] else "Succeeded"
    container = {"name": "job", "state": state, "restartCount": 0}
    written = {"creationTimestamp": "2026-11-29T09:59:59Z", "managedFields": node_report(ENDED_AT)}
    return {
        "metadata": {"name": "one-abcde", "uid": "u1", **written, **metadata},
        "spec": {"nodeName": "node1", "containers": [{"name": "job", "image": "some/image:1"}]},
        "status": {"phase": phase, "containerStatuses": [container] if state else [], **(status or {})},
    }


def disrupted(reason: str, at: str, message: str = "") -> dict[str, Any]:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "lastTransitionTime": at,
        "message": message,
    }
    return {"conditions": [condition]}


def deleted(at: str, grace: int) -> dict[str, Any]:
    return {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}


def test_a_program_that_ended_by_itself_with_0_has_succeeded() -> None:
    status = pod_exit(pod(terminated(0)))
    assert status is not None
    assert status.succeeded


def test_an_end_is_not_reported_before_the_pod_has_its_last_phase() -> None:
    assert pod_exit(pod(terminated(0), phase="Running")) is None
    assert pod_exit(pod(terminated(7), phase="Running")) is None


def test_a_container_that_the_cluster_has_added_does_not_delay_the_outcome() -> None:
    found = pod(terminated(0), phase="Running")
    found["status"]["containerStatuses"].append({"name": "mesh", "state": {"running": {}}})
    status = pod_exit(found)
    assert status is not None
    assert status.succeeded


@pytest.mark.parametrize(("code", "signal"), [(7, None), (137, 9), (143, 15), (255, None), (200, None)])
def test_an_exit_code_is_reported_with_the_signal_it_stands_for(code: int, signal: int | None) -> None:
    status = pod_exit(pod(terminated(code)))
    assert status is not None
    assert (status.code, status.signal, status.lost, status.oom) == (code, signal, False, False)


def test_exit_code_137_is_out_of_memory_only_if_the_kubelet_says_so() -> None:
    status = pod_exit(pod(terminated(137, reason="OOMKilled")))
    assert status is not None
    assert status.oom
    assert "Out of memory" in status.message


@pytest.mark.parametrize("at", [BEFORE, SAME])
@pytest.mark.parametrize("code", [0, 9, 143])
def test_a_program_that_ended_because_its_pod_was_evicted_is_lost(at: str, code: int) -> None:
    status = pod_exit(pod(terminated(code), status=disrupted("EvictionByEvictionAPI", at)))
    assert status is not None
    assert (status.lost, status.code, status.succeeded) == (True, code, False)
    assert "EvictionByEvictionAPI" in status.message


@pytest.mark.parametrize("code", [0, 7])
def test_a_pod_disruption_after_the_exit_changes_no_outcome(code: int) -> None:
    status = pod_exit(pod(terminated(code), status=disrupted("DeletionByTaintManager", AFTER)))
    assert status is not None
    assert (status.lost, status.code) == (False, code)


def test_a_program_that_ended_because_its_pod_was_deleted_is_lost() -> None:
    # Asked for 30 s before that time.
    status = pod_exit(pod(terminated(0), **deleted("2026-11-29T10:00:39Z", 30)))
    assert status is not None
    assert status.lost


def test_a_pod_deletion_after_the_exit_changes_no_outcome() -> None:
    status = pod_exit(pod(terminated(0), **deleted("2026-11-29T10:00:41Z", 30)))
    assert status is not None
    assert status.succeeded


def test_the_kubelets_final_deletion_of_a_pod_does_not_make_a_success() -> None:
    # It sets the time anew, after the end: when the deletion was asked for is told no more.
    last = pod(terminated(0), **deleted(AFTER, 0))
    status = pod_exit(last)
    assert status is not None
    assert status.lost
    record = PodRecord(pod=last)
    record.take(pod({"running": {}}, **deleted("2026-11-29T10:00:35Z", 30)))
    record.take(last)
    found = record.exit()
    assert found is not None
    assert found.lost


def test_later_reports_of_a_node_do_not_move_the_exit_time() -> None:
    """Its clock is an hour ahead, and its report of the pod's last phase comes when that is already being deleted."""
    ended = terminated(0, startedAt="2026-11-29T11:00:00Z", finishedAt="2026-11-29T11:00:10Z")
    record = PodRecord(pod={})
    record.take(pod(ended, phase="Running"))
    assert record.exit() is None
    record.take(pod(ended, **deleted("2026-11-29T10:00:42Z", 30), managedFields=node_report("2026-11-29T10:00:13Z")))
    found = record.exit()
    assert found is not None
    assert found.succeeded
    # The same, but for its first report.
    late = PodRecord(pod={})
    late.take(pod(ended, **deleted("2026-11-29T10:00:42Z", 30), managedFields=node_report("2026-11-29T10:00:13Z")))
    found = late.exit()
    assert found is not None
    assert found.lost


def test_a_deletion_that_was_requested_after_the_exit_leaves_the_success() -> None:
    asked = datetime(2026, 11, 29, 10, 0, 12, tzinfo=UTC)
    status = pod_exit(pod(terminated(0), **deleted("2026-11-29T10:00:13Z", 0)), asked_at=asked)
    assert status is not None
    assert status.succeeded


@pytest.mark.parametrize(
    ("code", "fields"),
    [(137, {"reason": "ContainerStatusUnknown"}), (255, {"reason": "Unknown"}), (255, {"containerID": None})],
)
def test_an_exit_that_the_kubelet_does_not_know_counts_as_node_lost(code: int, fields: dict[str, Any]) -> None:
    status = pod_exit(pod(terminated(code, **fields)))
    assert status is not None
    assert (status.reason, status.lost) == ("node_lost", True)


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun"])
def test_a_command_that_could_not_be_started_says_why(reason: str) -> None:
    said = 'exec: "no-such-program": executable file not found in $PATH'
    status = pod_exit(pod(terminated(128, reason=reason, message=said)))
    assert status is not None
    assert status.unstarted
    assert said in status.message


@pytest.mark.parametrize(
    ("message", "reason", "lost"),
    [
        ("Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ", "error", False),
        ('Container job exceeded its local ephemeral storage limit "10Mi". ', "error", False),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "1Mi". ', "error", False),
        ("The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ", "", True),
    ],
)
def test_an_eviction_is_caused_by_the_job_or_by_its_node(message: str, reason: str, lost: bool) -> None:
    evicted = {"reason": "Evicted", "message": message}
    for state in (None, terminated(137)):
        status = pod_exit(pod(state, phase="Failed", status=evicted))
        assert status is not None
        assert (status.reason, status.lost) == (reason, lost)
        assert message.strip() in status.message


def test_the_clusters_own_deadline_is_a_timeout() -> None:
    status = pod_exit(pod(terminated(137), status={"reason": "DeadlineExceeded"}))
    assert status is not None
    assert status.reason == "timeout"


def test_a_container_that_was_started_twice_is_lost() -> None:
    found = pod(terminated(0))
    found["status"]["containerStatuses"][0]["restartCount"] = 1
    status = pod_exit(found)
    assert status is not None
    assert (status.lost, status.succeeded) == (True, False)
    record = PodRecord(pod=found)
    for number in (1, 2):
        running = pod({"running": {}})
        running["status"]["containerStatuses"][0]["containerID"] = f"containerd://{number}"
        record.take(running)
    assert record.is_twice


@pytest.mark.parametrize("reason", ["DeletionByTaintManager", "DeletionByPodGC"])
def test_a_pod_that_is_gone_with_its_node_may_run_on(reason: str) -> None:
    status = gone_exit(pod({"running": {}}, status=disrupted(reason, BEFORE)))
    assert (status.reason, status.lost, status.may_run) == ("node_lost", True, True)
    failed = pod_exit(pod({"running": {}}, phase="Failed", status=disrupted(reason, BEFORE)))
    assert failed is not None
    assert (failed.reason, failed.may_run) == ("node_lost", True)


def test_a_pod_that_is_gone_without_an_exit_is_lost() -> None:
    assert gone_exit(None).lost
    assert gone_exit(pod({"running": {}})).lost
    assert gone_exit(pod(terminated(7), phase="Running")) == ExitStatus(code=7)


def test_the_result_is_what_the_kubelet_has_read() -> None:
    found = pod(terminated(0, message='{"a": 1}'))
    assert pod_exit(found) == ExitStatus(code=0)
    found["spec"]["containers"][0]["env"] = [{"name": RESULT_VARIABLE, "value": "/somewhere"}]
    status = pod_exit(found)
    assert status is not None
    assert status.result == b'{"a": 1}'
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    ended["message"] = "x" * MOST_RESULT_BYTES
    status = pod_exit(found)
    assert status is not None
    assert (status.result, status.result_refused) == (b"x" * MOST_RESULT_BYTES, "")
    # What it reads at most: there may be more.
    ended["message"] += "x"
    status = pod_exit(found)
    assert status is not None
    assert (status.result, bool(status.result_refused)) == (None, True)


# -- attempts --------------------------------------------------------------------------------------------------------


def job(*, pod_uid: str = "", **fields: Any) -> dict[str, Any]:
    annotations = {"container-manager/pod-uid": pod_uid} if pod_uid else {}
    return {"metadata": {"name": "one", "uid": "j1", "annotations": annotations}, "spec": {}, **fields}


def attempt(found: dict[str, Any] | None, *pods: dict[str, Any]) -> ClusterAttempt:
    made = ClusterAttempt(key="cm-x-1")
    if found is not None:
        made.note_job(found)
    for each in pods:
        record = made.pods[each["metadata"]["uid"]] = PodRecord(pod=each)
        record.take(each)
    return made


def test_the_exit_of_the_recorded_pod_is_the_outcome_of_the_attempt() -> None:
    second = pod(terminated(0), uid="u2", creationTimestamp="2026-11-29T09:59:00Z")
    found = attempt(job(pod_uid="u1"), pod({"running": {}}), second)
    found.judge(0.0)
    assert (found.phase, found.exit) == (Phase.RUNNING, None)


def test_an_attempt_that_ran_in_two_pods_is_lost_once_both_have_ended() -> None:
    found = attempt(job(pod_uid="u1"), pod(terminated(0)), pod({"running": {}}, uid="u2"))
    found.judge(0.0)
    assert found.exit is None
    found.pods["u2"].take(pod(terminated(143), uid="u2"))
    found.judge(0.0)
    assert found.exit is not None
    assert (found.exit.lost, found.exit.succeeded) == (True, False)


def test_a_recorded_pod_that_no_list_has_is_lost_only_by_a_later_list() -> None:
    found = attempt(job(pod_uid="u1"))
    found.judge(found.recorded_at - 1)
    assert found.phase is Phase.RUNNING
    found.judge(found.recorded_at + 1)
    assert found.exit is not None
    assert found.exit.lost


@pytest.mark.parametrize("condition", ["Complete", "Failed"])
def test_a_job_that_has_ended_is_no_success_without_its_pod(condition: str) -> None:
    ended = {"conditions": [{"type": condition, "status": "True", "reason": "Some"}]}
    found = attempt(job(status=ended))
    found.judge(found.job_seen_at + 1)
    assert found.exit is not None
    assert found.exit.lost


def test_a_pod_on_a_node_that_does_not_answer_is_lost_after_its_grace_period() -> None:
    given_up = {**disrupted("DeletionByTaintManager", BEFORE)}
    found = attempt(job(pod_uid="u1"), pod({"running": {}}, status=given_up, **deleted(AFTER, 2)))
    found.judge(0.0)
    assert found.exit is None
    record = found.pods["u1"]
    assert record.doomed_since is not None
    record.doomed_since -= 60
    found.judge(0.0)
    assert found.exit is not None
    assert (found.exit.reason, found.exit.may_run) == ("node_lost", True)


def test_a_pod_on_a_node_that_does_not_answer_is_not_lost_if_the_job_requires_a_proven_stop() -> None:
    given_up = {**disrupted("DeletionByTaintManager", BEFORE)}
    asking = job(pod_uid="u1")
    asking["metadata"]["annotations"]["container-manager/retry-after-proven-stop"] = "true"
    found = attempt(asking, pod({"running": {}}, status=given_up, **deleted(AFTER, 2)))
    record = found.pods["u1"]
    assert record.doomed_since is not None
    record.doomed_since -= 60
    found.judge(0.0)
    assert found.phase is Phase.RUNNING
    # The node is back, and its kubelet has ended it.
    record.take(pod(terminated(137), status=given_up, **deleted(AFTER, 2)))
    found.judge(0.0)
    assert found.exit is not None
    assert (found.exit.lost, found.exit.may_run) == (True, False)


# -- what a launch waits for -----------------------------------------------------------------------------------------


def unbound(**condition: Any) -> dict[str, Any]:
    found = pod(None, phase="Pending", status={"conditions": [condition]} if condition else {})
    del found["spec"]["nodeName"]
    return found


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod({"waiting": {"reason": reason, "message": message}}, phase="Pending")


@pytest.mark.parametrize(
    ("found", "kind", "final"),
    [
        (unbound(), "schedule", ""),
        (unbound(type="PodScheduled", status="False", reason="Unschedulable", message="0/2 nodes."), "schedule", ""),
        (unbound(type="PodScheduled", status="False", reason="SchedulingGated"), "held", ""),
        (waiting("ContainerCreating"), "held", ""),
        (waiting("ErrImagePull", "dial tcp 127.0.0.1:1: connect: connection refused"), "image", ""),
        (waiting("ErrImagePull", "failed to resolve: some/image:1: not found"), "image", "image"),
        (waiting("ImagePullBackOff", 'Back-off pulling image "some/image:1"'), "image", ""),
        (waiting("InvalidImageName", "couldn't parse image name"), "image", "image"),
        (waiting("ErrImageNeverPull", "not present with pull policy of Never"), "image", "image"),
        (waiting("CreateContainerConfigError", 'secret "x" not found'), "config", ""),
        (waiting("CreateContainerConfigError", "couldn't find key word in Secret one/x"), "config", ""),
        (
            waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
            "node",
            "",
        ),
        (
            waiting("CreateContainerConfigError", "services have not yet been read at least once, cannot construct"),
            "node",
            "",
        ),
        (waiting("CreateContainerError", "context deadline exceeded"), "node", ""),
        (
            waiting("CreateContainerError", 'failed to reserve container name "x": name "x" is reserved for "y"'),
            "node",
            "",
        ),
    ],
)
def test_each_cause_of_a_pods_wait_has_its_own_time_limit(found: dict[str, Any], kind: str, final: str) -> None:
    wait = launch_wait(job(), found)
    assert (wait.kind, wait.final) == (kind, final)


@pytest.mark.parametrize(
    ("reason", "message", "final", "is_doubtful"),
    [
        ("ErrImagePull", "failed with status code [manifests 1]: 401 Unauthorized", "image", True),
        ("ErrImagePull", "pull access denied, repository does not exist or may require authorization", "image", True),
        ("ImagePullBackOff", "ErrImagePull: failed to resolve: some/image:1: not found", "image", True),
        ("ErrImagePull", "dial tcp 127.0.0.1:1: connect: connection refused", "", False),
        ("InvalidImageName", "couldn't parse image name: not found", "image", False),
        ("ErrImageNeverPull", "not present with pull policy of Never", "image", False),
    ],
)
def test_a_registrys_refusal_to_a_pod_with_pull_secrets_is_not_yet_final(
    reason: str, message: str, final: str, is_doubtful: bool
) -> None:
    """Its node may have asked without them."""
    found = waiting(reason, message)
    found["spec"]["imagePullSecrets"] = [{"name": "login"}]
    wait = launch_wait(job(), found)
    assert (wait.kind, wait.final, wait.is_doubtful) == ("image", final, is_doubtful)
    del found["spec"]["imagePullSecrets"]
    assert launch_wait(job(), found) == wait._replace(is_doubtful=False)


@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        ("FailedMount", 'MountVolume.SetUp failed for volume "v0" : secret "x" not found', "config"),
        ("FailedMount", "Unable to attach or mount volumes: timed out waiting for the condition", "node"),
        ("FailedCreatePodSandBox", 'plugin type="ptp" failed (add): no addresses are left', "node"),
        ("FailedCreatePodSandBox", "mkdir /sys/fs/cgroup/memory/pod1/a: cannot allocate memory: unknown", "config"),
        ("MissingClusterDNS", "kubelet does not have ClusterDNS IP configured", "held"),
    ],
)
def test_a_pod_that_its_node_cannot_start_has_a_time_limit_until_only_its_container_is_missing(
    reason: str, message: str, kind: str
) -> None:
    creating = waiting("ContainerCreating")
    events = [{"reason": reason, "message": message}, {"reason": "MissingClusterDNS", "message": "no DNS"}]
    assert launch_wait(job(), creating, events).kind == kind
    # It may be pulling its image for an hour by now, and the event is still there.
    ready = {"type": "PodReadyToStartContainers", "status": "True"}
    creating["status"]["conditions"] = [ready]
    assert launch_wait(job(), creating, events).kind == "held"


def test_a_suspended_cluster_job_waits_without_a_time_limit() -> None:
    assert launch_wait(job(spec={"suspend": True}), None).kind == "held"


@pytest.mark.parametrize(
    ("said", "kind", "final"),
    [
        ('pods "x" is forbidden: exceeded quota: small, requested: pods=1', "held", ""),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation', "held", "start"),
        ('admission webhook "policy.example.com" denied the request: no', "held", "start"),
        ('failed calling webhook "policy.example.com": connection refused', "held", ""),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi', "held", "start"),
        ('pods "x" is forbidden: error looking up service account a/b: serviceaccount "b" not found', "config", ""),
    ],
)
def test_a_refused_admission_is_final_only_if_waiting_cannot_change_it(said: str, kind: str, final: str) -> None:
    assert admission(said) == (kind, final)
    wait = launch_wait(job(), None, [{"message": said}])
    assert (wait.kind, wait.final) == (kind, final)
    assert said in wait.what


@pytest.mark.parametrize(
    ("message", "final"),
    [
        ("failed to resolve reference: unexpected status: 401 Unauthorized", True),
        ("pull access denied, repository does not exist or may require authorization", True),
        ("unexpected status from HEAD request to http://r/v2/x/manifests/1: 503 Service Unavailable", False),
        ("429 Too Many Requests - toomanyrequests: You have reached your pull rate limit", False),
        ("dial tcp: lookup registry.example.com: no such host", False),
        ("dial tcp 10.0.0.1:443: i/o timeout", False),
    ],
)
def test_a_registrys_refusal_is_final_and_its_temporary_errors_are_not(message: str, final: bool) -> None:
    assert is_final_image_problem(message) == final

"""Tables of states of single pods and Jobs, with those that real kubelets rarely report: only one is a success."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from container_manager.executors.kubernetes.api_fields import counted_pods, deletion_asked_at, never_resumed
from container_manager.executors.kubernetes.launch_waits import is_final_image_problem, launch_wait
from container_manager.executors.kubernetes.pod_exits import gone_exit, jobs_own_end, pod_exit

from .pods import node_report

pytestmark = pytest.mark.without_database
_ENDED = datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)


def moment(seconds: float) -> str:
    """Return a time so long after the container's end, as the API puts it."""
    return (_ENDED + timedelta(seconds=seconds)).isoformat()


def pod(
    phase: str, *, terminated: dict[str, Any] | None = None, node_clock: float = 0.0, reported: float = 0.0, **more: Any
) -> dict[str, Any]:
    """Return a pod whose container is named as ours are; ``more`` are fields of its status.

    ``node_clock``: by how many seconds its node's clock is ahead. ``reported``: how long after the end its node has
    said so.
    """
    state: dict[str, Any] = {}
    if terminated is not None:
        times = {"startedAt": moment(node_clock - 10), "finishedAt": moment(node_clock)}
        state = {"terminated": {"exitCode": 0, **times, "containerID": "containerd://1", **terminated}}
    written = {"managedFields": node_report(moment(reported))}
    metadata = {"name": "p", "uid": "1", **written, **more.pop("metadata", {})}
    status = {"phase": phase, "containerStatuses": [{"name": "job", "state": state, "restartCount": 0}], **more}
    return {"metadata": metadata, "spec": {"nodeName": "node1"}, "status": status}


def disrupted(reason: str, seconds: float) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": moment(seconds)}
    return {"conditions": [condition]}


def deleted(seconds: float, grace: int) -> dict[str, Any]:
    """Return the metadata of a pod whose deletion was asked for then."""
    at = moment(seconds + grace)
    return {"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}}


def test_only_the_own_containers_exit_code_0_in_the_last_phase_is_a_success() -> None:
    ended = pod("Succeeded", terminated={"reason": "Completed"})
    status = pod_exit(ended)
    assert status is not None
    assert status.succeeded
    # The same without the phase may still be revised, unless the cluster's own containers alone keep it there.
    assert pod_exit(pod("Running", terminated={"reason": "Completed"})) is None
    beside = pod("Running", terminated={"reason": "Completed"})
    beside["status"]["containerStatuses"].append({"name": "proxy", "state": {"running": {"startedAt": moment(-9)}}})
    status = pod_exit(beside)
    assert status is not None
    assert status.succeeded


def test_no_other_combination_of_pod_states_is_a_success() -> None:
    """Whatever is odd about it: how it ended, who stopped it, how often it ran."""
    ends = [None, {"exitCode": 0}, {"exitCode": 1, "reason": "Error"}, {"exitCode": 255, "reason": "Unknown"}]
    phases = ["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    stops = [
        {},
        disrupted("EvictionByEvictionAPI", -5),
        disrupted("PreemptionByScheduler", -5),
        disrupted("DeletionByTaintManager", -5),
        disrupted("TerminationByKubelet", 5),
        {"reason": "Evicted", "message": "The node was low on resource: memory."},
        {"reason": "DeadlineExceeded"},
        dated(PodScheduled=0, Initialized=0),
        deleted(-5, 30),
    ]
    for phase, ended, stop, twice in itertools.product(phases, ends, stops, (False, True)):
        found = pod_exit(pod(phase, terminated=ended, **stop), is_twice=twice)
        is_good = phase == "Succeeded" or (phase == "Failed" and ended == {"exitCode": 0})
        if found is not None and found.succeeded:
            assert (is_good, ended, stop, twice) == (True, {"exitCode": 0}, {}, False), (phase, ended, stop, twice)


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [
        ({"exitCode": 7, "reason": "Error"}, {"code": 7, "signal": None}),
        ({"exitCode": 143, "reason": "Error"}, {"code": 143, "signal": 15}),
        ({"exitCode": 137, "reason": "Error"}, {"code": 137, "signal": 9, "oom": False}),
        ({"exitCode": 137, "reason": "OOMKilled"}, {"code": 137, "oom": True}),
        ({"exitCode": 0, "reason": "OOMKilled"}, {"code": 0, "oom": False}),
        ({"exitCode": 255, "reason": "Error"}, {"code": 255, "signal": None, "reason": ""}),
        ({"exitCode": 255, "reason": "Unknown"}, {"reason": "node_lost", "lost": True}),
        ({"exitCode": 137, "reason": "ContainerStatusUnknown"}, {"reason": "node_lost", "lost": True, "oom": False}),
        ({"exitCode": 128, "reason": "StartError", "message": "no such file"}, {"unstarted": True}),
        ({"exitCode": 127, "reason": "ContainerCannotRun"}, {"unstarted": True}),
    ],
    ids=str,
)
def test_a_container_state_is_read_as_its_exit(terminated: dict[str, Any], expected: dict[str, Any]) -> None:
    phase = "Succeeded" if terminated["exitCode"] == 0 else "Failed"
    status = pod_exit(pod(phase, terminated=terminated))
    assert status is not None
    assert {name: getattr(status, name) for name in expected} == expected


@pytest.mark.parametrize("node_clock", [0.0, 3600.0, -3600.0])
@pytest.mark.parametrize("code", [0, 1, 143])
@pytest.mark.parametrize(("seconds", "is_before"), [(-10, True), (0, True), (1, False)])
@pytest.mark.shows("explanation/kubernetes.md#how-an-end-is-judged")
def test_an_exit_counts_as_the_programs_own_only_before_its_pod_was_stopped_whatever_the_nodes_clock_says(
    code: int, seconds: int, is_before: bool, node_clock: float
) -> None:
    phase, terminated = "Failed" if code else "Succeeded", {"exitCode": code}
    for stop in (disrupted("EvictionByEvictionAPI", seconds), deleted(seconds, 30)):
        status = pod_exit(pod(phase, terminated=terminated, node_clock=node_clock, **stop))
        assert status is not None
        assert (status.lost, status.succeeded, status.code) == (is_before, not is_before and not code, code)


@pytest.mark.parametrize("node_clock", [0.0, 3600.0, -3600.0])
@pytest.mark.parametrize("seconds", [-10, 0, 1, 60])
def test_a_stop_by_the_node_itself_precedes_the_exit_whatever_its_date(seconds: int, node_clock: float) -> None:
    """A kubelet dates it with its report: after the end that it has caused."""
    stop = disrupted("TerminationByKubelet", node_clock + seconds)
    for code in (0, 9):
        phase = "Failed" if code else "Succeeded"
        found = pod(phase, terminated={"exitCode": code}, node_clock=node_clock, reported=90.0, **stop)
        status = pod_exit(found)
        assert status is not None
        assert (status.code, status.lost, status.succeeded) == (code, True, False)


@pytest.mark.shows("explanation/kubernetes.md#what-a-cluster-cannot-promise")
def test_an_exit_that_a_node_reports_after_its_pods_deletion_was_requested_is_lost() -> None:
    """As of a node that was cut off: only its own clock says that the end was before."""
    found = pod("Succeeded", terminated={"exitCode": 0}, reported=60.0, **disrupted("DeletionByTaintManager", 30))
    unsaid = pod("Succeeded", terminated={"exitCode": 0}, **deleted(30, 30))
    unsaid["metadata"].pop("managedFields")
    for each in (found, unsaid):
        status = pod_exit(each)
        assert status is not None
        assert (status.lost, status.succeeded) == (True, False)


def test_the_kubelets_final_deletion_does_not_hide_when_the_deletion_was_requested() -> None:
    """It has no grace period, and sets the time anew, after the container's end."""
    last = pod("Succeeded", terminated={"exitCode": 0}, **deleted(2, 0))
    assert deletion_asked_at(last) is None
    for asked_at, succeeds in ((_ENDED - timedelta(seconds=1), False), (_ENDED + timedelta(seconds=1), True)):
        status = pod_exit(last, asked_at=asked_at)
        assert status is not None
        assert status.succeeded is succeeds
    # Whoever has not seen the first cannot tell.
    status = pod_exit(last)
    assert status is not None
    assert status.lost


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Pod ephemeral local storage usage exceeds the total limit of containers 1Mi.", "error"),
        ('Container job exceeded its local ephemeral storage limit "1Mi".', "error"),
        ('Usage of EmptyDir volume "v0" exceeds the limit "1Mi".', "error"),
        ("The node was low on resource: ephemeral-storage. Container job was using 2Mi, request is 0.", ""),
        ("The node had condition: [DiskPressure].", ""),
    ],
)
def test_an_eviction_for_files_is_the_jobs_own_fault_or_the_nodes(message: str, reason: str) -> None:
    for ended in (None, {"exitCode": 137, "reason": "Error"}, {"exitCode": 0}):
        status = pod_exit(pod("Failed", terminated=ended, reason="Evicted", message=message))
        assert status is not None
        assert (status.reason, status.lost, status.succeeded) == (reason, not reason, False)
        assert message in status.message


def dated(**seconds: float) -> dict[str, Any]:
    """Return a status with conditions that are true since so long after the container's end."""
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": moment(at)} for kind, at in seconds.items()]
    return {"conditions": conditions}


@pytest.mark.parametrize("code", [0, 9, 143])
@pytest.mark.parametrize(
    ("status", "is_refused"),
    [
        # As a kubelet makes it anew after it has refused a pod that ran: it ran for ten seconds.
        (dated(PodScheduled=0, Initialized=0), True),
        (dated(PodScheduled=-9, Initialized=-9), True),
        (dated(PodScheduled=-10, Initialized=-10), False),
        (dated(PodScheduled=-12, Initialized=-11), False),
        # The scheduler's clock is ahead of the node's; a sidecar was started again.
        (dated(PodScheduled=3600, Initialized=-11), False),
        (dated(PodScheduled=-12, Initialized=-5), False),
        (dated(PodScheduled=0), False),
        ({}, False),
    ],
    ids=str,
)
def test_a_pod_whose_conditions_are_younger_than_its_program_was_refused_by_its_node(
    status: dict[str, Any], is_refused: bool, code: int
) -> None:
    found = pod_exit(pod("Failed" if code else "Succeeded", terminated={"exitCode": code}, **status))
    assert found is not None
    assert (found.code, found.lost) == (code, is_refused)
    assert ("refused the pod" in found.message) is is_refused


@pytest.mark.parametrize("reason", ["UnexpectedAdmissionError", "NodeAffinity", "OutOfcpu", "Preempting", "Terminated"])
def test_a_program_that_its_node_stopped_for_its_own_reasons_is_lost(reason: str) -> None:
    ended = {"exitCode": 143, "reason": "Error"}
    status = pod_exit(pod("Failed", terminated=ended, reason=reason, message="The node says why"))
    assert status is not None
    assert (status.code, status.lost, status.reason) == (143, True, "")
    assert f"({reason}): The node says why" in status.message


@pytest.mark.parametrize("reason", ["DeletionByTaintManager", "DeletionByPodGC"])
def test_a_pod_that_is_gone_with_its_node_may_still_run(reason: str) -> None:
    for status in (pod_exit(pod("Failed", **disrupted(reason, 0))), gone_exit(pod("Running", **disrupted(reason, 0)))):
        assert status is not None
        assert (status.reason, status.lost, status.may_run) == ("node_lost", True, True)
        assert reason in status.message


def test_a_container_that_was_started_again_is_lost_however_it_ended() -> None:
    """No kubelet could be brought to it here; their documentation says that it may happen."""
    for found in (pod("Succeeded", terminated={"exitCode": 0}), pod("Failed", terminated={"exitCode": 1})):
        found["status"]["containerStatuses"][0]["restartCount"] = 1
        status = pod_exit(found)
        assert status is not None
        assert (status.lost, status.succeeded) == (True, False)
        assert "a second time" in status.message


def test_a_container_that_a_kubelet_could_not_find_is_lost_with_its_node() -> None:
    found = pod("Failed")
    unknown = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "could not be located"}
    state = {"state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {"terminated": unknown}}
    found["status"]["containerStatuses"] = [{"name": "job", "restartCount": 1, **state}]
    status = pod_exit(found)
    assert status is not None
    assert (status.reason, status.lost) == ("node_lost", True)
    assert "could not be located" in status.message


def test_a_pod_that_is_gone_without_a_trace_is_lost() -> None:
    for last in (None, pod("Running"), pod("Pending")):
        status = gone_exit(last)
        assert (status.lost, status.may_run, status.succeeded) == (True, True, False)


def test_a_job_status_counts_running_terminating_and_finished_pods() -> None:
    assert counted_pods({"spec": {}}) == counted_pods({"status": {"active": None}}) == 0
    assert counted_pods({"status": {"active": 1, "terminating": 1, "failed": 1, "ready": 1}}) == 3


def test_only_a_job_that_was_never_started_has_certainly_had_no_pod() -> None:
    assert never_resumed({"spec": {"suspend": True}})
    assert not never_resumed({"spec": {"suspend": True}, "status": {"startTime": moment(0)}})
    assert not never_resumed({"spec": {}})


def test_a_job_that_says_it_is_complete_is_no_proof_without_its_pod() -> None:
    for condition in ("Complete", "Failed", "FailureTarget"):
        job = {"metadata": {"uid": "1"}, "status": {"conditions": [{"type": condition, "status": "True"}]}}
        status = jobs_own_end(job)
        assert status is not None
        assert (status.lost, status.succeeded) == (True, False)
    assert jobs_own_end({"metadata": {"uid": "1"}, "status": {}}) is None


@pytest.mark.parametrize(
    ("said", "final"),
    [
        ('pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1', ""),
        ('pods "p" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "start"),
        ('admission webhook "w.example.com" denied the request: no', "start"),
        ("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not on Fridays", "start"),
        ('Internal error occurred: failed calling webhook "w": connection refused', ""),
        ('pods "p" is forbidden: error looking up service account n/a: serviceaccount "a" not found', ""),
        ('Pod "p" is invalid: spec.containers[0].image: Required value', "start"),
    ],
)
def test_admission_ends_a_launch_only_where_waiting_cannot_change_it(said: str, final: str) -> None:
    job = {"metadata": {"uid": "1"}, "spec": {}}
    waits = launch_wait(job, None, [{"reason": "FailedCreate", "message": f"Error creating: {said}"}])
    assert waits.final == final
    assert said in waits.what


@pytest.mark.parametrize(
    ("message", "is_final"),
    [
        ('rpc error: code = NotFound desc = failed to pull "r/i:1": r/i:1: not found', True),
        ("pull access denied, repository does not exist or may require authorization", True),
        ("failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized", True),
        ("unexpected status code: 503 Service Unavailable", False),
        ("unexpected status: 429 Too Many Requests", False),
        ("dial tcp 10.0.0.1:443: connect: connection refused", False),
        ("dial tcp: lookup registry.example.com: no such host", False),
        ("net/http: TLS handshake timeout", False),
        ("unexpected EOF", False),
        ("failed to fetch token: 503 Service Unavailable, authorization failed", False),
    ],
)
def test_a_temporary_error_of_a_registry_is_no_refusal(message: str, is_final: bool) -> None:
    assert is_final_image_problem(message) is is_final

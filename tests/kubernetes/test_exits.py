"""How attempts end: each reason with its evidence, provoked on real kubelets, and no success that is not one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from container_manager.conf import AppSettings
from container_manager.executors.base import Executor, Phase
from container_manager.executors.kubernetes.labels import object_name
from container_manager.models import ContainerJob
from container_manager.queue import explain
from container_manager.testing.conformance import ended, observation, output, submitted, text, wait_until

from . import images
from .cluster_site import ClusterSite, attempts_of, output_of
from .control import ClusterControl
from .kubernetes_harness import KubernetesHarness

_MEBIBYTE = 1024 * 1024
_READY = "echo ready > $EFFECTS/ready"


def running(harness: KubernetesHarness, executor: Executor, script: str, **fields: Any) -> str:
    """Run a script that says when it is ready; return its key then."""
    spec = harness.spec(script, **fields)
    submitted(executor, spec)
    wait_until(executor, (harness.effects() / "ready").exists)
    return spec.key


def delete_pod(harness: KubernetesHarness, key: str, **how: Any) -> None:
    """Delete an attempt's pod by hand."""
    [pod] = harness.pods(key)
    harness.cluster.core.delete_namespaced_pod(pod.metadata.name, harness.namespace, **how)


@pytest.mark.django_db(transaction=True)
@pytest.mark.shows(
    "explanation/kubernetes.md#when-a-job-on-kubernetes-has-completed", "explanation/kubernetes.md#how-an-end-is-judged"
)
def test_each_kind_of_pod_exit_has_its_reason_message_and_exit_code(site: ClusterSite) -> None:
    memory = {"memory_bytes": 16 * _MEBIBYTE}
    # Else the node may kill before it has noted the start.
    eat = "sleep 1; tail /dev/zero"
    registry = site.cluster.control.registries if site.cluster.control else None
    assert registry is not None
    images_allowed = [site.cluster.image, f"{registry.address}/*", "Odd:*"]
    cases: dict[str, tuple[Any, ...]] = {}

    def case(name: str, job: ContainerJob, *expected: Any) -> None:
        cases[name] = (job, *expected)

    case("exit", site.enqueue("exit 7"), "error", 7, None, "Exit code 7.", True)
    case("signal", site.enqueue("kill -TERM $$"), "signal", 143, 15, "Ended by signal 15 (SIGTERM).", True)
    case("kill", site.enqueue("kill -KILL $$"), "signal", 137, 9, "Ended by signal 9 (SIGKILL).", True)
    said = f"limit: {16 * _MEBIBYTE} bytes"
    case("oom", site.enqueue(f"exec sh -c '{eat}; exit $?'", **memory), "oom", 137, None, said, True)
    stopped = "longer than 4 s"
    slow = site.enqueue("sleep 600", timeout_seconds=4, grace_seconds=60)
    case("timeout", slow, "timeout", 143, 15, stopped, True)
    deaf = site.enqueue("trap '' TERM; while :; do sleep 0.1; done", timeout_seconds=4)
    case("deaf", deaf, "timeout", 137, 9, stopped, True)
    missing = f"{registry.address}/team/job:missing"
    case("missing image", site.enqueue("true", image=missing), "image", None, None, missing, False)
    case("other image", site.enqueue("true", image="other:1"), "image", None, None, "not allowed", False)
    case("odd image", site.enqueue("true", image="Odd:1"), "image", None, None, "InvalidImageName", False)
    program = site.enqueue_command("/no/such/program")
    case("missing program", program, "start", 128, None, "no such file or directory", False)
    case("permission", site.enqueue_command("/etc/passwd"), "start", 128, None, "permission denied", False)
    large = site.enqueue("true", memory_bytes=2**50)
    case("large", large, "unschedulable", None, None, "Insufficient memory", False)

    def unchecked(**fields: Any) -> ContainerJob:
        job = site.enqueue("true")
        ContainerJob.objects.filter(pk=job.pk).update(**fields)
        return job

    # None of these is the cluster's absence: the API server is not even told of them.
    case(
        "large environment", unchecked(environment={"A": "x" * 2_000_000}), "start", None, None, "2000002 bytes", False
    )
    case("endless cores", unchecked(cpu_count=1e300), "start", None, None, "from 0.01 to 8192", False)
    well = site.enqueue("echo out; echo err >&2")
    child = site.enqueue("sleep 1; tail /dev/zero; echo $?; exit 0", **memory)
    options = {"images": images_allowed, "unschedulable_seconds": 15.0}
    with site.worker("--slots", "5", options=options):
        for name, (job, reason, code, number, words, _) in cases.items():
            site.await_status(job, "failed")
            attempt = job.attempts.get()
            found = (job.failure_reason, job.exit_code, attempt.reason, attempt.exit_code, attempt.signal)
            assert found == (reason, code, reason, code, number), (name, job.last_error)
            assert words in job.last_error, (name, job.last_error)
            assert attempt.message == job.last_error, name
            assert explain(job).code == reason, name
        for job in (well, child):
            site.await_status(job, "completed")
            assert (job.exit_code, job.failure_reason, job.last_error, attempts_of(job)) == (0, "", "", [(1, 0, "")])
        assert sorted(output_of(well).splitlines()) == [b"err", b"out"]
        # The shell says so too, and may say "Killed" on the other stream, before or after.
        assert b"137" in output_of(child).splitlines()
        site.assert_clean()
    # Permanent or worth a retry, as the settings' documentation says.
    reasons = AppSettings().retry.reasons
    assert {name: reason in reasons for name, (_, reason, *_) in cases.items()} == {
        name: case[-1] for name, case in cases.items()
    }


@pytest.mark.without_database
class TestNoFalseSuccess:
    """Exit code 0 of a program that was told to end is no success: nobody can tell whether it was done."""

    def test_a_program_that_exits_with_0_when_its_pod_is_deleted_is_lost(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        script = f"trap 'echo told; exit 0' TERM; {_READY}; while :; do sleep 0.1; done"
        key = running(harness, executor, script, grace_seconds=30)
        delete_pod(harness, key)
        status = ended(executor, key)
        assert (status.succeeded, status.lost, status.code) == (False, True, 0)
        assert "stopped from outside before its program had ended by itself" in status.message
        assert b"told\n" in text(output(executor, key))
        executor.remove(key)

    def test_a_program_whose_running_job_is_suspended_is_lost_and_its_second_pod_does_not_run(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        script = f"trap 'exit 0' TERM; echo ran >> $EFFECTS/runs; {_READY}; while :; do sleep 0.1; done"
        key = running(harness, executor, script, grace_seconds=30)
        name, batch = object_name(key), harness.cluster.batch
        batch.patch_namespaced_job(name, harness.namespace, {"spec": {"suspend": True}})
        status = ended(executor, key)
        assert (status.succeeded, status.lost) == (False, True)
        executor.remove(key)
        harness.cluster.wait_for(lambda: harness.job(key) is None)
        assert (harness.effects() / "runs").read_text() == "ran\n"

    def test_a_pod_that_is_deleted_by_force_is_lost_and_may_still_run(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        """With a grace period of 0 the API server forgets a pod at once, whether its node has ended it or not.

        Only the Job's finalizer keeps it there, which whoever is in a hurry takes off.
        """
        key = running(harness, executor, f"{_READY}; sleep 600")
        [pod] = harness.pods(key)
        off = {"metadata": {"finalizers": None}}
        harness.cluster.core.patch_namespaced_pod(pod.metadata.name, harness.namespace, off)
        delete_pod(harness, key, grace_period_seconds=0)
        status = ended(executor, key)
        assert (status.succeeded, status.lost, status.may_run) == (False, True, True)
        executor.remove(key)

    def test_a_success_before_the_deletion_of_the_pod_stays_a_success(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("exit 0")
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        delete_pod(harness, spec.key)
        assert ended(executor, spec.key).succeeded
        executor.remove(spec.key)

    def test_a_success_that_a_worker_first_sees_when_its_pod_is_deleted_is_lost(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        """A pod's last deletion hides when its deletion was asked for: before or after its end, nobody can tell."""
        spec = harness.spec("exit 0")
        submitted(executor, spec)
        ended(executor, spec.key)
        [pod] = harness.pods(spec.key)
        core, name = harness.cluster.core, pod.metadata.name
        held = {"metadata": {"finalizers": [*(pod.metadata.finalizers or ()), "tests.example.com/held"]}}
        core.patch_namespaced_pod(name, harness.namespace, held)
        try:
            delete_pod(harness, spec.key)
            heir = harness.executor()
            assert submitted(heir, spec) == spec.key
            status = ended(heir, spec.key)
            assert (status.succeeded, status.lost, status.code) == (False, True, 0)
        finally:
            core.patch_namespaced_pod(name, harness.namespace, {"metadata": {"finalizers": None}})


@pytest.mark.without_database
@pytest.mark.parametrize(
    "rest", ["exec sleep 600", "trap 'exit 0' TERM; while :; do sleep 0.05; done"], ids=["dies", "ends"]
)
def test_the_node_ends_a_job_whose_timeout_no_worker_enforced(
    harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    """The net behind our own timeout, an hour behind it, here: at once."""
    monkeypatch.setattr("container_manager.executors.kubernetes.job_manifests.NET_SECONDS", 0)
    # The node counts from when it has the pod, so its program needs time to begin.
    executor = harness.executor(image_seconds=10)
    spec = harness.spec_without_volumes(f"echo begun; {rest}", timeout_seconds=1, grace_seconds=1)
    submitted(executor, spec)
    status = ended(executor, spec.key)
    assert (status.reason, status.succeeded) == ("timeout", False)
    assert "activeDeadlineSeconds" in status.message
    assert text(output(executor, spec.key)) == b"begun\n"
    executor.remove(spec.key)


@pytest.mark.without_database
@pytest.mark.disturbs_cluster
class TestNodesThatForget:
    """What a node says after it has lost its memory is no verdict on the program."""

    def test_an_exit_by_a_node_reboot_is_not_the_programs_failure(
        self, harness: KubernetesHarness, executor: Executor, control: ClusterControl
    ) -> None:
        key = running(harness, executor, f"{_READY}; sleep 600")
        [pod] = harness.pods(key)
        control.crash_node(pod.spec.node_name)
        control.reboot_node(pod.spec.node_name)
        status = ended(executor, key)
        assert (status.succeeded, status.lost, status.reason) == (False, True, "node_lost")
        executor.remove(key)

    def test_an_exit_by_a_lost_container_is_not_the_programs_failure(
        self, harness: KubernetesHarness, executor: Executor, control: ClusterControl
    ) -> None:
        """Nor is it started again: a kubelet of today counts it as a restart, and gives the pod up."""
        script = f"echo ran >> $EFFECTS/runs; {_READY}; trap 'exit 0' TERM; while :; do sleep 0.1; done"
        key = running(harness, executor, script)
        [pod] = harness.pods(key)
        node = pod.spec.node_name
        container = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
        control.kill_kubelet(node)
        socket = control.nodes[node].socket
        images.ctr(socket, "tasks", "kill", "--signal", "SIGKILL", container)
        # containerd itself deletes the task of a container of Kubernetes that has ended.
        harness.cluster.wait_for(lambda: container not in images.ctr(socket, "tasks", "ls", "-q").split())
        images.ctr(socket, "containers", "delete", container)
        # It has what it knew of its containers only there.
        control.kill_containerd(node)
        control.start_containerd(node)
        control.start_kubelet(node)
        status = ended(executor, key)
        assert (status.succeeded, status.lost, status.reason) == (False, True, "node_lost")
        assert "ContainerStatusUnknown" in status.message
        assert (harness.effects() / "runs").read_text() == "ran\n"
        executor.remove(key)
        harness.cluster.wait_for(lambda: not harness.pods(key))


@pytest.mark.without_database
@pytest.mark.shows("explanation/kubernetes.md#deleted-record")
def test_an_exit_stays_known_when_job_and_pod_are_deleted_by_hand(
    harness: KubernetesHarness, executor: Executor
) -> None:
    spec = harness.spec("exit 7")
    submitted(executor, spec)
    assert ended(executor, spec.key).code == 7
    name, batch = object_name(spec.key), harness.cluster.batch
    batch.patch_namespaced_job(name, harness.namespace, {"metadata": {"finalizers": None}})
    batch.delete_namespaced_job(name, harness.namespace, propagation_policy="Background")
    harness.cluster.wait_for(lambda: not harness.pods(spec.key))
    found = observation(executor, spec.key)
    assert found is not None
    assert (found.phase, found.exit and found.exit.code) == (Phase.EXITED, 7)
    executor.remove(spec.key)
    wait_until(executor, lambda: observation(executor, spec.key) is None)


@pytest.mark.without_database
@pytest.mark.shows("explanation/kubernetes.md#deleted-record")
def test_the_finalizer_keeps_job_and_pod_until_they_are_removed(harness: KubernetesHarness, executor: Executor) -> None:
    """Whoever deletes the Job meanwhile gets it away only when the worker has stored its end."""
    spec = harness.spec("exit 7")
    submitted(executor, spec)
    assert ended(executor, spec.key).code == 7
    harness.cluster.batch.delete_namespaced_job(
        object_name(spec.key), harness.namespace, propagation_policy="Background"
    )
    heir = harness.executor()
    job = harness.job(spec.key)
    assert job is not None
    assert job.metadata.deletion_timestamp is not None
    assert ended(heir, spec.key).code == 7
    executor.remove(spec.key)
    harness.cluster.wait_for(lambda: harness.job(spec.key) is None)


@pytest.mark.without_database
def test_the_result_of_a_program_is_reported_with_its_exit(harness: KubernetesHarness, executor: Executor) -> None:
    spec = harness.spec("""echo '{"rows": 3}' > $CONTAINER_MANAGER_RESULT""")
    submitted(executor, spec)
    status = ended(executor, spec.key)
    assert status.succeeded
    assert status.result is not None
    assert json.loads(status.result) == {"rows": 3}
    executor.remove(spec.key)

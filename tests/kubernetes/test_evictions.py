"""Pods that the cluster or somebody ends before their program does: none of them is a success, each says why."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from container_manager.models import ContainerJob

from ..workers import eventually
from .cluster_site import BEGUN, ClusterSite, attempts_of
from .cluster_under_test import ClusterUnderTest
from .control import ClusterControl

pytestmark = pytest.mark.django_db(transaction=True)
# Programs that end as soon as they are told to, each with an exit code of its own.
_WAIT = "while :; do sleep 0.05; done"
_POLITE = f"{BEGUN}; trap 'exit 0' TERM; {_WAIT}"
_STUBBORN = f"{BEGUN}; trap 'exit 9' TERM; {_WAIT}"
_STOPPED = "stopped from outside before its program had ended by itself"


def delete(site: ClusterSite, job: ContainerJob, **options: Any) -> None:
    """Delete the pod of a first attempt, as `kubectl delete pod` does."""
    site.cluster.core.delete_namespaced_pod(site.pod_of(job).metadata.name, site.namespace, **options)


def evict(site: ClusterSite, job: ContainerJob) -> None:
    """Evict the pod of a first attempt, as `kubectl drain` does."""
    name = site.pod_of(job).metadata.name
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": site.namespace}}
    site.cluster.core.create_namespaced_pod_eviction(name, site.namespace, body)


@pytest.mark.parametrize("end", [delete, evict])
@pytest.mark.parametrize(("script", "code"), [(_POLITE, 0), (_STUBBORN, 9), (f"{BEGUN}; exec sleep 600", 143)])
@pytest.mark.shows("explanation/kubernetes.md#evicted-pod")
def test_a_program_that_the_cluster_terminates_has_not_completed_whatever_its_exit_code(
    site: ClusterSite, end: Any, script: str, code: int
) -> None:
    with site.worker("--slots", "1"):
        job = site.start(script, grace_seconds=20)
        end(site, job)
        site.await_status(job, "failed")
        site.assert_clean()
    assert (attempts_of(job), job.failure_reason) == ([(1, code, "lost")], "lost")
    assert _STOPPED in job.last_error
    assert f"exit code was {code}" in job.last_error
    if end is evict:
        assert "EvictionByEvictionAPI" in job.last_error


@pytest.mark.parametrize("end", [delete, evict])
@pytest.mark.shows("explanation/kubernetes.md#evicted-pod")
def test_a_job_whose_pod_was_terminated_is_retried_in_a_new_pod(site: ClusterSite, end: Any) -> None:
    with site.worker("--slots", "1"):
        job = site.start(f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT = 2 ] || exec sleep 600", max_retries=1)
        end(site, job)
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 143, "lost"), (2, 0, "")]
    assert site.runs() == ["begin 1", "begin 2"]


def test_a_program_that_had_ended_by_itself_before_its_pod_was_deleted_has_completed(site: ClusterSite) -> None:
    """Its worker hears of both at once: it stands still meanwhile."""
    with site.worker("--slots", "1", lease_seconds=120.0) as process:
        job = site.start(f"{BEGUN}; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done", grace_seconds=20)
        pod = site.pod_of(job)
        process.send_signal(signal.SIGSTOP)
        (site.effects() / "go").touch()
        site.cluster.wait_for(lambda: _terminated(site, job))
        # The API's times have whole seconds.
        reported_at = timezone.now()
        eventually(lambda: timezone.now() >= reported_at + timedelta(seconds=2))
        site.cluster.core.delete_namespaced_pod(pod.metadata.name, site.namespace)
        site.cluster.wait_for(lambda: not site.pods(site.key_of(job)))
        process.send_signal(signal.SIGCONT)
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]


def _terminated(site: ClusterSite, job: ContainerJob) -> Any:
    pod = site.pod_of(job)
    return pod.status.phase == "Succeeded" and pod.status.container_statuses[0].state.terminated


@pytest.mark.shows("explanation/kubernetes.md#unseen-end")
def test_a_pod_whose_end_nobody_has_seen_is_lost_though_its_job_says_that_it_is_complete(site: ClusterSite) -> None:
    with site.worker("--slots", "1") as process:
        job = site.start(f"{BEGUN}; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done")
        site.kill(process)
    (site.effects() / "go").touch()
    site.cluster.wait_for(lambda: _terminated(site, job))
    name = site.job_name(job)
    site.cluster.wait_for(lambda: site.cluster.batch.read_namespaced_job(name, site.namespace).status.succeeded)
    delete(site, job)
    site.cluster.wait_for(lambda: not site.pods(site.key_of(job)))
    with site.worker("--slots", "1"):
        site.await_status(job, "failed")
        site.assert_clean()
    assert attempts_of(job) == [(1, None, "lost")]
    assert "nobody has seen how its program ended" in job.last_error


@pytest.mark.shows("explanation/kubernetes.md#what-a-cluster-cannot-promise")
def test_a_pod_that_is_deleted_by_force_is_lost(site: ClusterSite) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_POLITE, grace_seconds=20)
        delete(site, job, grace_period_seconds=0)
        site.await_status(job, "failed")
        site.assert_clean()
    ((number, code, reason),) = attempts_of(job)
    # Its node ends it at once; whether that is still said depends on who is faster.
    assert (number, reason) == (1, "lost")
    assert code in (None, 0, 137)


@pytest.mark.shows("explanation/kubernetes.md#suspended-job")
def test_a_job_that_is_suspended_while_it_runs_has_not_completed(site: ClusterSite) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_POLITE, grace_seconds=20)
        site.cluster.batch.patch_namespaced_job(site.job_name(job), site.namespace, {"spec": {"suspend": True}})
        site.await_status(job, "failed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "lost")]
    assert _STOPPED in job.last_error


@contextmanager
def turn_on(cluster: ClusterUnderTest, node: str, resource: str) -> Iterator[None]:
    """Give a node one piece of a resource of the tests' own."""

    def set_capacity(value: str | None) -> None:
        cluster.core.patch_node_status(node, {"status": {"capacity": {resource: value}}})

    set_capacity("1")
    try:
        cluster.wait_for(lambda: resource in cluster.core.read_node(node).status.allocatable)
        yield
    finally:
        set_capacity(None)


def test_a_preempted_job_is_lost_and_runs_after_the_job_with_a_higher_priority(
    cluster: ClusterUnderTest, namespace: str, tmp_path: Path
) -> None:
    from kubernetes.client import SchedulingV1Api

    classes: Any = SchedulingV1Api(cluster.client)
    resource, names = f"tests.example/{namespace}", (f"{namespace}-low", f"{namespace}-high")
    for value, name in enumerate(names):
        classes.create_priority_class({"metadata": {"name": name}, "value": 1000 * value})
    site = ClusterSite(cluster, namespace, tmp_path, gpus=1, gpu_resource=resource, priority_classes=[*names])
    try:
        with turn_on(cluster, "node1", resource), site.worker("--slots", "2"):
            script = f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT = 2 ] || {{ trap 'exit 0' TERM; {_WAIT}; }}"
            low = site.start(script, max_retries=1, container={"gpus": 1, "priority_class": names[0]})
            high = site.enqueue("true", container={"gpus": 1, "priority_class": names[1]})
            site.await_status(high, "completed")
            site.await_status(low, "completed")
            site.assert_clean()
    finally:
        site.clean_up()
        for name in names:
            classes.delete_priority_class(name)
    assert attempts_of(low) == [(1, 0, "lost"), (2, 0, "")]
    assert attempts_of(high) == [(1, 0, "")]
    said = low.attempts.get(number=1).message
    assert "PreemptionByScheduler" in said


def await_reported(site: ClusterSite, job: ContainerJob) -> None:
    """Wait until a first attempt's node has reported that it runs: before that it tells of its end in other words."""
    site.cluster.wait_for(lambda: site.pod_of(job).status.phase == "Running")


def test_a_job_that_writes_more_files_than_it_may_fails_by_its_own_error(site: ClusterSite) -> None:
    script = f"{BEGUN}; dd if=/dev/zero of=/tmp/full bs=1M count=16; {_WAIT}"
    with site.worker("--slots", "1"):
        job = site.start(script, container={"storage_bytes": 1 << 20}, max_retries=0)
        site.await_status(job, "failed")
        site.assert_clean()
    ((number, _, reason),) = attempts_of(job)
    assert (number, reason) == (1, "error")
    assert "ephemeral" in job.last_error
    assert "used more files than it may have" in job.last_error


def test_a_job_that_a_node_short_of_disk_evicts_is_lost_and_runs_again_elsewhere(
    site: ClusterSite, control: ClusterControl
) -> None:
    script = f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT = 2 ] || {{ trap 'exit 0' TERM; {_WAIT}; }}"
    control.limit_disk("node2")
    with site.worker("--slots", "1"):
        # It stays where it was put: a retry waits for this node's room.
        job = site.start(script, node="node2", max_retries=1)
        await_reported(site, job)
        control.fill_disk("node2")
        eventually(lambda: job.attempts.filter(number=1, reason="lost").exists())
        said = job.attempts.get(number=1).message
        control.relieve("node2")
        site.await_status(job, "completed")
        site.assert_clean()
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "lost"), (2, "")]
    # Most often the pod itself is `Succeeded`, and its Job complete.
    assert "TerminationByKubelet" in said or "evicted the pod" in said
    assert "The node was low on resource: ephemeral-storage" in said


@pytest.mark.parametrize(("script", "code"), [(_POLITE, 0), (_STUBBORN, 9), (f"{BEGUN}; exec sleep 600", 143)])
@pytest.mark.shows("explanation/kubernetes.md#refused-after-restart")
def test_a_job_that_its_node_refuses_after_a_restart_is_lost_whatever_its_exit_code(
    site: ClusterSite, control: ClusterControl, script: str, code: int
) -> None:
    """A kubelet that finds its node short of disk as it starts refuses the pods that it has, and ends them."""
    with site.worker("--slots", "1"):
        job = site.start(script, node="node2")
        await_reported(site, job)
        control.start_under_pressure("node2")
        site.await_status(job, "failed", "completed")
        control.relieve("node2")
        site.assert_clean()
    ((number, said_code, reason),) = attempts_of(job)
    assert (number, reason) == (1, "lost")
    # Its node may say that the pod has ended before it says how its program did.
    assert said_code in (code, None)
    # It evicts the pod instead where it finds out a moment later. Of an exit with 0 the cluster says only that all is well.
    words = ("The node had condition: [DiskPressure]", "The node was low on resource", "refused the pod")
    assert any(each in job.last_error for each in words)


def test_a_job_that_its_node_refuses_is_not_closed_before_its_program_has_stopped(
    site: ClusterSite, control: ClusterControl
) -> None:
    """Else it would be tried again beside itself: this one does not end when it is told to."""
    script = f"{BEGUN}; trap '' TERM; while :; do echo >> $EFFECTS/beats; sleep 0.05; done"
    beats = site.effects() / "beats"
    with site.worker("--slots", "1"):
        job = site.start(script, node="node2", grace_seconds=10)
        await_reported(site, job)
        control.start_under_pressure("node2")
        site.await_status(job, "failed")
        stopped = beats.stat().st_size
        control.relieve("node2")
        site.assert_clean()
    ((number, _, reason),) = attempts_of(job)
    assert (number, reason) == (1, "lost")
    assert beats.stat().st_size == stopped


def test_a_job_that_runs_on_while_its_kubelet_restarts_is_judged_by_its_exit_code(
    site: ClusterSite, control: ClusterControl
) -> None:
    with site.worker("--slots", "1"):
        job = site.start(f"{BEGUN}; while [ ! -e $EFFECTS/go ]; do sleep 0.05; done", node="node2")
        control.limit_disk("node2")
        (site.effects() / "go").touch()
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]

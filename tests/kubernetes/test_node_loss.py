"""Nodes that are lost for real: their kubelets end, and their containers go on; they come back, reboot, or are deleted."""

from __future__ import annotations

import pytest

from container_manager.models import ContainerJob

from ..workers import eventually
from .cluster_site import BEGUN, DONE, ClusterSite, attempts_of, output_of
from .control import ClusterControl

pytestmark = pytest.mark.django_db(transaction=True)
_BEATS = 'while [ ! -e $EFFECTS/go ]; do echo "$CONTAINER_MANAGER_ATTEMPT" >> $EFFECTS/beats; sleep 0.1; done'
# The first attempt goes on writing wherever it is; the second ends by itself.
_WRITES_ON = f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT != 1 ] || {{ {_BEATS}; }}; {DONE}"
_PROVEN = {"retry_after_proven_stop": True}


def beats(site: ClusterSite) -> list[str]:
    """Return the numbers of the attempts that have written, one for each tenth of a second."""
    path = site.effects() / "beats"
    return path.read_text().split() if path.exists() else []


def writes_on(site: ClusterSite) -> None:
    """Return once the first attempt's program has written something more."""
    before = len(beats(site))
    eventually(lambda: len(beats(site)) > before + 2)


def await_given_up(site: ClusterSite, job: ContainerJob) -> None:
    """Return once the control plane has given up on the first attempt's pod."""
    name = site.pod_of(job).metadata.name

    def given_up() -> bool:
        pod = site.cluster.core.read_namespaced_pod(name, site.namespace)
        return any(each.type == "DisruptionTarget" for each in pod.status.conditions or ())

    site.cluster.wait_for(given_up)


def move_to_other_node(job: ContainerJob) -> None:
    """Let a later attempt run on the other node: nobody waits for the one that is lost."""
    job.refresh_from_db()
    ContainerJob.objects.filter(pk=job.pk).update(container={**job.container, "node_pool": "node1"})


@pytest.mark.shows("explanation/kubernetes.md#reclaimed-node")
def test_a_job_on_a_lost_node_is_reported_as_lost_and_runs_again_elsewhere(
    site: ClusterSite, control: ClusterControl
) -> None:
    """Without a word of its own a job takes that both may run for a while."""
    with site.worker("--slots", "2"):
        job = site.start(_WRITES_ON, node="node2", max_retries=1)
        move_to_other_node(job)
        control.kill_kubelet("node2")
        site.await_status(job, "completed")
        assert site.runs() == ["begin 1", "begin 2", "end 2"]
        # It was said so, and it does.
        writes_on(site)
        said = job.attempts.get(number=1).message
        control.start_kubelet("node2")
        # The node ends what it still runs, and nothing is left.
        site.assert_clean()
        stopped = len(beats(site))
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "node_lost"), (2, "")]
    assert "The node 'node2' does not answer (DeletionByTaintManager)" in said
    assert "may still run there" in said
    assert len(beats(site)) == stopped


@pytest.mark.shows("explanation/kubernetes.md#when-something-is-away")
def test_a_job_that_requires_a_proven_stop_is_not_retried_before_its_lost_node_is_back_and_has_stopped_it(
    site: ClusterSite, control: ClusterControl
) -> None:
    with site.worker("--slots", "2"):
        job = site.start(_WRITES_ON, node="node2", max_retries=1, container=_PROVEN)
        move_to_other_node(job)
        control.kill_kubelet("node2")
        await_given_up(site, job)
        # Longer than a job that does not ask for it would wait.
        deadline = len(beats(site)) + 200
        eventually(lambda: len(beats(site)) > deadline)
        assert site.runs() == ["begin 1"]
        assert attempts_of(job) == [(1, None, "")]
        control.start_kubelet("node2")
        site.await_status(job, "completed")
        stopped = len(beats(site))
        site.assert_clean()
    assert site.runs() == ["begin 1", "begin 2", "end 2"]
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "lost"), (2, "")]
    assert len(beats(site)) == stopped


def test_a_job_that_requires_a_proven_stop_is_never_retried_when_its_node_was_deleted(
    site: ClusterSite, control: ClusterControl
) -> None:
    """Nobody can prove any more that it has stopped, and it has not."""
    with site.worker("--slots", "2"):
        job = site.start(_WRITES_ON, node="node2", max_retries=1, container=_PROVEN)
        move_to_other_node(job)
        control.kill_kubelet("node2")
        control.delete_node("node2")
        site.await_status(job, "failed")
        writes_on(site)
        assert site.runs() == ["begin 1"]
        site.assert_clean()
    assert attempts_of(job) == [(1, None, "node_lost")]
    assert "retry_after_proven_stop" in job.last_error
    assert "The pod was given up with its node" in job.last_error


@pytest.mark.shows("explanation/kubernetes.md#reclaimed-node")
def test_a_job_on_a_deleted_node_is_reported_as_lost_and_runs_again_elsewhere(
    site: ClusterSite, control: ClusterControl
) -> None:
    with site.worker("--slots", "2"):
        job = site.start(_WRITES_ON, node="node2", max_retries=1)
        move_to_other_node(job)
        control.kill_kubelet("node2")
        control.delete_node("node2")
        site.await_status(job, "completed")
        site.assert_clean()
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "node_lost"), (2, "")]


def test_a_node_that_is_silent_for_a_moment_loses_no_job(site: ClusterSite, control: ClusterControl) -> None:
    with site.worker("--slots", "1"):
        job = site.start(f"echo before; {_WRITES_ON}; echo after", node="node2")
        eventually(lambda: output_of(job) == b"before\n")
        control.kill_kubelet("node2")
        writes_on(site)
        (site.effects() / "go").touch()
        # It has ended, and its node cannot say so.
        eventually(lambda: site.runs() == ["begin 1", "end 1"])
        control.start_kubelet("node2")
        site.await_status(job, "completed")
        site.assert_clean()
    assert (attempts_of(job), output_of(job)) == ([(1, 0, "")], b"before\nafter\n")


@pytest.mark.shows("explanation/kubernetes.md#restarted-node")
def test_a_job_on_a_node_that_reboots_is_lost_and_runs_again(site: ClusterSite, control: ClusterControl) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_WRITES_ON, node="node2", max_retries=1)
        writes_on(site)
        control.crash_node("node2")
        stopped = len(beats(site))
        control.reboot_node("node2")
        site.await_status(job, "completed")
        site.assert_clean()
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "node_lost"), (2, "")]
    assert "does not know how the container ended" in job.attempts.get(number=1).message
    assert len(beats(site)) == stopped
    assert site.runs() == ["begin 1", "begin 2", "end 2"]


def test_a_job_that_requires_a_proven_stop_is_retried_after_its_node_has_rebooted(
    site: ClusterSite, control: ClusterControl
) -> None:
    """A reboot proves the stop."""
    with site.worker("--slots", "1"):
        job = site.start(_WRITES_ON, node="node2", max_retries=1, container=_PROVEN)
        control.crash_node("node2")
        control.reboot_node("node2")
        site.await_status(job, "completed")
        site.assert_clean()
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "node_lost"), (2, "")]


def test_a_job_runs_on_while_the_containerd_of_its_node_is_restarted(
    site: ClusterSite, control: ClusterControl
) -> None:
    prints = "n=0; while [ ! -e $EFFECTS/go ]; do n=$((n + 1)); echo $n; echo $n >> $EFFECTS/beats; sleep 0.1; done"
    with site.worker("--slots", "1"):
        job = site.start(f"{BEGUN}; {prints}; {DONE}; echo after", node="node2")
        writes_on(site)
        control.kill_containerd("node2")
        writes_on(site)
        control.start_containerd("node2")
        # One that answers may not have taken its containers up yet: of what ends before that it keeps no more output.
        before = len(beats(site))
        eventually(lambda: len(output_of(job).split()) > before)
        (site.effects() / "go").touch()
        site.await_status(job, "completed")
        site.assert_clean()
    assert attempts_of(job) == [(1, 0, "")]
    assert output_of(job).decode().split() == [*beats(site), "after"]


@pytest.mark.shows("explanation/kubernetes.md#full-executor")
def test_a_cancelled_job_on_a_lost_node_is_closed_once_the_node_is_back(
    site: ClusterSite, control: ClusterControl
) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_WRITES_ON, node="node2", container=_PROVEN)
        control.kill_kubelet("node2")
        job.refresh_from_db()
        job.mark_as_cancelled(actor="alice")
        await_given_up(site, job)
        assert job.attempts.get().finished_at is None
        control.start_kubelet("node2")
        site.await_status(job, "cancelled")
        stopped = len(beats(site))
        # The worker's only slot is free.
        later = site.enqueue("true")
        site.await_status(later, "completed")
        site.assert_clean()
    assert len(beats(site)) == stopped

"""Jobs and pods of running attempts that people delete, suspend, release and multiply with kubectl."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from container_manager.executors.kubernetes.labels import FINALIZER
from container_manager.models import ContainerJob

from ..polling import eventually
from .api_proxy import ApiProxy
from .cluster_site import BEGUN, DONE, ClusterSite, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_WAIT = "while [ ! -e $EFFECTS/go ]; do sleep 0.05; done"
_POLITE = f"trap '{DONE}; exit 0' TERM; {BEGUN}; {_WAIT}; echo last"


def delete_job(site: ClusterSite, job: ContainerJob, propagation: str) -> None:
    """Delete the Job of a first attempt; `kubectl delete job` does it in the background."""
    site.cluster.batch.delete_namespaced_job(site.job_name(job), site.namespace, propagation_policy=propagation)


def patch_job(site: ClusterSite, job: ContainerJob, body: dict[str, Any]) -> None:
    site.cluster.batch.patch_namespaced_job(site.job_name(job), site.namespace, body)


def drop_finalizers(site: ClusterSite, job: ContainerJob) -> None:
    patch_job(site, job, {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("is_held", [True, False], ids=["with finalizer", "without finalizer"])
@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_a_job_deleted_by_hand_is_stopped_and_lost(site: ClusterSite, propagation: str, is_held: bool) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_POLITE, grace_seconds=20)
        if not is_held:
            drop_finalizers(site, job)
        delete_job(site, job, propagation)
        site.await_status(job, "failed")
        site.assert_clean()
    assert site.runs() == ["begin 1", "end 1"]
    assert attempts_of(job) == [(1, 0, "lost")]
    assert "stopped from outside before its program had ended by itself" in job.last_error


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_a_job_deleted_by_hand_is_retried_under_a_new_name(site: ClusterSite, propagation: str) -> None:
    with site.worker("--slots", "1"):
        job = site.start(f"{BEGUN}; [ $CONTAINER_MANAGER_ATTEMPT = 2 ] || exec sleep 600", max_retries=1)
        delete_job(site, job, propagation)
        site.await_status(job, "completed")
        site.assert_clean()
    assert [(number, reason) for number, _, reason in attempts_of(job)] == [(1, "lost"), (2, "")]


@pytest.mark.parametrize("is_held", [True, False], ids=["with finalizer", "without finalizer"])
def test_a_pod_without_its_cluster_job_is_followed_to_its_exit_and_removed(site: ClusterSite, is_held: bool) -> None:
    """Whoever deletes a Job and not its pods (`--cascade=orphan`) wants these to go on."""
    with site.worker("--slots", "1"):
        job = site.start(_POLITE, grace_seconds=20)
        pod = site.pod_of(job)
        if not is_held:
            drop_finalizers(site, job)
        delete_job(site, job, "Orphan")
        site.cluster.wait_for(
            lambda: (
                not site.cluster.core.read_namespaced_pod(pod.metadata.name, site.namespace).metadata.owner_references
            )
        )
        (site.effects() / "go").touch()
        site.await_status(job, "completed")
        site.assert_clean()
    assert (attempts_of(job), output_of(job)) == ([(1, 0, "")], b"last\n")


def test_a_pod_without_its_cluster_job_is_stopped_when_the_job_is_cancelled(site: ClusterSite) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_POLITE, grace_seconds=20)
        drop_finalizers(site, job)
        delete_job(site, job, "Orphan")
        eventually(lambda: site.job(site.key_of(job)) is None)
        job.refresh_from_db()
        job.mark_as_cancelled(actor="alice")
        site.await_status(job, "cancelled")
        site.assert_clean()
    assert (site.runs(), attempts_of(job)) == (["begin 1", "end 1"], [(1, 0, "")])


def test_a_pod_without_its_cluster_job_and_its_attempt_is_removed_by_the_sweep(site: ClusterSite) -> None:
    with site.worker("--slots", "1") as process:
        job = site.start(_POLITE, grace_seconds=20)
        site.kill(process)
    drop_finalizers(site, job)
    delete_job(site, job, "Orphan")
    eventually(lambda: site.job(site.key_of(job)) is None)
    job.refresh_from_db()
    job.delete()
    with site.worker("--slots", "1"):
        site.assert_clean()
    assert site.runs() == ["begin 1", "end 1"]


def test_a_job_whose_finalizer_was_taken_off_by_hand_completes(site: ClusterSite) -> None:
    with site.worker("--slots", "1"):
        job = site.start(_POLITE)
        drop_finalizers(site, job)
        (site.effects() / "go").touch()
        site.await_status(job, "completed")
        site.assert_clean()
    assert (attempts_of(job), output_of(job)) == ([(1, 0, "")], b"last\n")


@pytest.mark.shows("explanation/kubernetes.md#two-pods")
def test_a_second_pod_of_an_attempt_is_stopped_and_reported(site: ClusterSite) -> None:
    """Its spec cannot be changed to have two; whoever makes a pod with the same labels makes it the Job's."""
    with site.worker("--slots", "1"):
        job = site.start(_POLITE, grace_seconds=20)
        first = site.pod_of(job)
        twin = site.cluster.client.sanitize_for_serialization(first)
        kept = {name: twin["metadata"][name] for name in ("labels", "annotations", "ownerReferences")}
        for name in ("nodeName",):
            twin["spec"].pop(name)
        body = {"metadata": {**kept, "name": f"{first.metadata.name}-twin"}, "spec": twin["spec"]}
        site.cluster.core.create_namespaced_pod(site.namespace, body)
        site.cluster.wait_for(lambda: [pod.metadata.uid for pod in site.pods(site.key_of(job))] == [first.metadata.uid])
        (site.effects() / "go").touch()
        site.await_status(job, "completed", "failed")
        site.assert_clean()
    assert "a second pod of this attempt" in output_of(job, "system").decode()
    if site.runs().count("begin 1") > 1:
        assert attempts_of(job)[0][2] == "lost"
    else:
        assert attempts_of(job) == [(1, 0, "")]


def test_a_waiting_cluster_job_that_is_deleted_by_hand_is_created_again(site: ClusterSite) -> None:
    """It had not begun, so it is no loss: the attempt goes on."""
    with site.worker("--slots", "1"):
        job = site.enqueue("true", memory_bytes=1 << 45)
        name = site.job_name(job)
        first = site.cluster.wait_for(lambda: site.job(site.key_of(job)))
        assert FINALIZER in first.metadata.finalizers
        site.pod_of(job)
        delete_job(site, job, "Background")
        again = site.cluster.wait_for(
            lambda: (found := site.job(site.key_of(job))) and found.metadata.uid != first.metadata.uid and found
        )
        assert again.metadata.name == name
        job.refresh_from_db()
        job.mark_as_cancelled(actor="alice")
        site.await_status(job, "cancelled")
        site.assert_clean()


class TestProgramRunsUnseen:
    """A job waits for a node of its namespace's own pool, and runs while no worker sees it."""

    _POOL = "later"
    # It is told to end by whoever deletes it; how it does is not what counts.
    _ENDLESS = f"trap 'exit 0' TERM; {BEGUN}; {_WAIT}"

    def options(self, site: ClusterSite, **more: Any) -> dict[str, Any]:
        return {"node_pools": {self._POOL: {"node_selector": {site.namespace: "yes"}}}, **more}

    def enqueue(self, site: ClusterSite, script: str) -> ContainerJob:
        return site.enqueue(script, container={"node_pool": self._POOL}, grace_seconds=20)

    def waiting(self, site: ClusterSite, script: str) -> ContainerJob:
        """Queue a job; return it once its worker knows that its pod waits for a node."""
        job = self.enqueue(site, script)
        site.await_wait(job, "a node")
        return job

    @pytest.fixture(autouse=True)
    def _nodes_are_taken_back(self, site: ClusterSite) -> Iterator[None]:
        yield
        site.cluster.core.patch_node("node1", {"metadata": {"labels": {site.namespace: None}}})

    def give_node(self, site: ClusterSite, *runs: str) -> None:
        """Let a node take what waits for one; return once that has written these lines."""
        site.cluster.core.patch_node("node1", {"metadata": {"labels": {site.namespace: "yes"}}})
        site.await_runs(*runs)

    def run_unseen(self, site: ClusterSite, way: ApiProxy, *runs: str) -> None:
        """Give a node while no list and no watch comes through any more."""
        way.answer(r"GET .*/(jobs|pods)\?", 503)
        way.cut()
        self.give_node(site, *runs)

    def delete(self, site: ClusterSite, job: ContainerJob, *, is_held: bool) -> None:
        """Delete a Job by hand; return once its pod is gone, and the Job is, or is held by its finalizer alone."""

        def is_gone() -> bool:
            if site.pods(site.key_of(job)):
                return False
            found = site.job(site.key_of(job))
            return found is None if not is_held else found.metadata.finalizers == [FINALIZER]

        if not is_held:
            drop_finalizers(site, job)
        delete_job(site, job, "Foreground")
        site.cluster.wait_for(is_gone)

    def assert_lost(self, site: ClusterSite, job: ContainerJob, *runs: str) -> None:
        site.await_status(job, "completed", "failed")
        assert (attempts_of(job), site.runs()) == ([(1, None, "lost")], [*runs])
        assert "may have run" in job.last_error
        site.assert_clean()

    @pytest.mark.shows("explanation/kubernetes.md#what-a-launch-waits-for")
    def test_an_unseen_run_that_is_deleted_with_its_evidence_is_lost_and_does_not_run_again(
        self, site: ClusterSite, way: ApiProxy
    ) -> None:
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig, options=self.options(site)):
            job = self.waiting(site, f"{BEGUN}; {DONE}")
            self.run_unseen(site, way, "begin 1", "end 1")
            self.delete(site, job, is_held=False)
            way.be_faithful()
            self.assert_lost(site, job, "begin 1", "end 1")

    def test_an_unseen_run_of_an_unschedulable_job_is_lost_and_does_not_run_again(
        self, site: ClusterSite, way: ApiProxy
    ) -> None:
        """No node has taken it in time, and what was to be deleted by its worker is deleted by somebody else."""
        way.answer("DELETE .*", 503)
        options = self.options(site, unschedulable_seconds=3.0)
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig, options=options):
            job = self.enqueue(site, f"{BEGUN}; {DONE}")
            eventually(lambda: way.asked("DELETE .*/jobs/"))
            self.run_unseen(site, way, "begin 1", "end 1")
            self.delete(site, job, is_held=False)
            way.be_faithful()
            self.assert_lost(site, job, "begin 1", "end 1")

    def test_an_unseen_run_that_is_deleted_while_it_runs_is_lost_and_does_not_run_again(
        self, site: ClusterSite, way: ApiProxy
    ) -> None:
        """The Job is held, but has nothing to tell: its controller counts no pod any more once it is being deleted."""
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig, options=self.options(site)):
            job = self.waiting(site, self._ENDLESS)
            self.run_unseen(site, way, "begin 1")
            self.delete(site, job, is_held=True)
            way.be_faithful()
            self.assert_lost(site, job, "begin 1")

    def test_an_unseen_run_that_is_deleted_while_there_is_no_worker_is_lost_and_does_not_run_again(
        self, site: ClusterSite
    ) -> None:
        with site.worker("--slots", "1", options=self.options(site)) as process:
            job = self.waiting(site, self._ENDLESS)
            site.kill(process)
        self.give_node(site, "begin 1")
        self.delete(site, job, is_held=True)
        with site.worker("--slots", "1", options=self.options(site)):
            self.assert_lost(site, job, "begin 1")

    @pytest.mark.shows("explanation/kubernetes.md#what-a-cluster-cannot-promise")
    @pytest.mark.parametrize("is_deleted", [False, True], ids=["resumed", "deleted"])
    def test_an_unseen_run_that_is_suspended_with_its_evidence_counts_as_never_resumed_and_runs_again(
        self, site: ClusterSite, way: ApiProxy, is_deleted: bool
    ) -> None:
        """Its controller takes back its start time, and does not count the pod that it ends."""
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig, options=self.options(site)):
            job = self.waiting(site, self._ENDLESS)
            self.run_unseen(site, way, "begin 1")
            patch_job(site, job, {"spec": {"suspend": True}})
            site.cluster.wait_for(lambda: not site.pods(site.key_of(job)))
            way.be_faithful()
            site.await_wait(job, "resume its Job, which is suspended")
            if is_deleted:
                delete_job(site, job, "Foreground")
            else:
                patch_job(site, job, {"spec": {"suspend": False}})
            site.await_runs("begin 1", "begin 1")
            (site.effects() / "go").touch()
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            site.assert_clean()

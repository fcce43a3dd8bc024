"""Attempts that pass from worker to worker, names that are taken, and answers that were lost: each runs once."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from container_manager.executors.base import Executor, LaunchSpec, Phase, Rejected, Unavailable, Waiting
from container_manager.executors.kubernetes.labels import FINALIZER, POD_ANNOTATION, object_name
from container_manager.models import JobAttempt, JobLog, Worker
from container_manager.testing.conformance import ended, new_key, observation, output, submitted, text, wait_until

from ..polling import PATIENCE_SECONDS, eventually
from ..ports import free_port
from .api_proxy import ApiProxy, Side, status_body
from .cluster_site import BEGUN, DONE, ClusterSite, attempts_of, output_of
from .kubernetes_harness import KubernetesHarness, await_lists

_RUN = "echo ran >> $EFFECTS/runs"


def phase(executor: Executor, key: str) -> Phase | None:
    found = observation(executor, key)
    return None if found is None else found.phase


def run_count(harness: KubernetesHarness) -> int:
    path = harness.effects() / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def foreign_job(name: str, cluster_image: str, **metadata: Any) -> dict[str, Any]:
    """Return a Job that somebody else has under this name; it is suspended."""
    container = {"name": "job", "image": cluster_image, "command": ["true"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"metadata": {"name": name, **metadata}, "spec": {"suspend": True, "template": template}}


@pytest.mark.django_db(transaction=True)
class TestWorkersThatEnd:
    @pytest.mark.parametrize(
        ("pattern", "side"),
        [
            ("POST .*/jobs", "request"),
            ("POST .*/jobs", "answer"),
            ("POST .*/secrets", "request"),
            ("POST .*/secrets", "answer"),
            ("PATCH .*/jobs/", "request"),
            ("PATCH .*/jobs/", "answer"),
            (r"GET .*/pods/.*/log", "request"),
        ],
        ids=[
            "before the create",
            "after the create, before its answer",
            "before the Secret",
            "after the Secret",
            "before the pod is recorded",
            "after the pod is recorded",
            "before the log is read",
        ],
    )
    def test_a_worker_that_is_killed_at_any_step_of_a_launch_loses_and_repeats_no_job(
        self, site: ClusterSite, way: ApiProxy, allowed_secrets: dict[str, Any], pattern: str, side: Side
    ) -> None:
        go = site.gate()
        script = f"{BEGUN}; echo $CM_WORD; read word < $EFFECTS/go; {DONE}"
        settings = {**allowed_secrets, "MASK_SECRETS": False}
        variables = {"CM_SECRET_WORD": "horse"}
        job = site.enqueue(script, max_retries=3, secrets={"CM_WORD": "env:CM_SECRET_WORD"})
        way.hold(pattern, side)
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig, variables=variables, **settings) as first:
            way.await_held()
            site.kill(first)
            # What was held never arrives, and what was answered is not heard.
            way.cut()
        with site.worker("--slots", "1", variables=variables, **settings):
            site.await_runs("begin 1")
            go.write_text("\n")
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            assert output_of(job) == b"horse\n"
            site.assert_clean()

    def test_a_worker_that_is_killed_before_it_watches_its_pods_loses_no_job(
        self, site: ClusterSite, way: ApiProxy
    ) -> None:
        go = site.gate()
        way.hold(r"GET .*/pods\?.*watch=true", "request")
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig) as first:
            way.await_held()
            job = site.enqueue(f"{BEGUN}; read word < $EFFECTS/go; {DONE}", max_retries=3)
            site.await_runs("begin 1")
            site.kill(first)
        way.cut()
        with site.worker("--slots", "1"):
            go.write_text("\n")
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_a_job_that_ends_while_there_is_no_worker_is_finished_by_the_next_worker(self, site: ClusterSite) -> None:
        go = site.gate()
        with site.worker("--slots", "1") as first:
            job = site.start(f"{BEGUN}; echo first; read word < $EFFECTS/go; echo last; {DONE}; exit 7")
            site.kill(first)
        go.write_text("\n")
        site.await_runs("begin 1", "end 1")
        with site.worker("--slots", "1"):
            site.await_status(job, "failed")
            assert attempts_of(job) == [(1, 7, "error")]
            assert output_of(job) == b"first\nlast\n"
            site.assert_clean()

    @pytest.mark.shows("explanation/kubernetes.md#restarted-controller")
    def test_a_worker_that_is_told_to_end_leaves_its_running_jobs_to_the_next_worker(self, site: ClusterSite) -> None:
        go = site.gate()
        count = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"
        job = site.enqueue(f"{BEGUN}; echo begun; {count}; read word < $EFFECTS/go; echo last; {DONE}", max_retries=3)
        expected = b"begun\n" + b"".join(b"line %d\n" % number for number in range(2000)) + b"last\n"
        with site.worker("--slots", "2") as first:
            site.await_runs("begin 1")
            # Some of it is stored by now: it must not be there twice.
            eventually(lambda: JobLog.objects.filter(attempt__job=job).exists())
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=PATIENCE_SECONDS) == 0
        assert not Worker.objects.exists()
        job.refresh_from_db()
        assert job.status == "running"
        with site.worker("--slots", "2"):
            eventually(lambda: Worker.objects.filter(pk=JobAttempt.objects.get(job=job).worker).exists())
            go.write_text("\n")
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            assert output_of(job) == expected
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_a_worker_that_is_told_to_end_leaves_its_waiting_launches_to_the_next_worker(
        self, site: ClusterSite
    ) -> None:
        """It has no pod that runs yet, and is not started twice."""
        options = {"unschedulable_seconds": None, "node_pools": {"later": {"node_selector": {site.namespace: "yes"}}}}
        job = site.enqueue(f"{BEGUN}; {DONE}", container={"node_pool": "later"})
        with site.worker("--slots", "1", options=options) as first:
            site.await_wait(job, "a node")
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=PATIENCE_SECONDS) == 0
        core, labels = site.cluster.core, {site.namespace: "yes"}
        with site.worker("--slots", "1", options=options):
            site.await_wait(job, "a node")
            core.patch_node("node1", {"metadata": {"labels": labels}})
            try:
                site.await_status(job, "completed")
            finally:
                core.patch_node("node1", {"metadata": {"labels": {site.namespace: None}}})
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_workers_that_are_replaced_one_after_the_other_run_each_job_once(self, site: ClusterSite) -> None:
        """As in a rolling update of two replicas: each new one is there before an old one goes."""
        run = 'echo "$CONTAINER_MANAGER_JOB" >> $EFFECTS/ran; while ! test -e $EFFECTS/go; do sleep 0.1; done'
        jobs = [site.enqueue(run, max_retries=3) for _ in range(4)]
        with (
            site.worker("--slots", "2") as first,
            site.worker("--slots", "2") as second,
        ):
            eventually(lambda: JobAttempt.objects.exclude(handle="").count() == len(jobs))
            with site.worker("--slots", "4"):
                for old in (first, second):
                    old.send_signal(signal.SIGTERM)
                    assert old.wait(timeout=PATIENCE_SECONDS) == 0
                (site.effects() / "go").touch()
                for job in jobs:
                    site.await_status(job, "completed")
                    assert attempts_of(job) == [(1, 0, "")]
                ran = (site.effects() / "ran").read_text().split()
                assert len(ran) == len(set(ran)) == len(jobs)
                site.assert_clean()

    @pytest.mark.shows("explanation/kubernetes.md#finished-job-again")
    def test_a_finished_job_does_not_run_again_after_it_was_cleaned_up(self, site: ClusterSite) -> None:
        job = site.enqueue(f"{BEGUN}; {DONE}", max_retries=3)
        with site.worker("--slots", "1"):
            site.await_status(job, "completed")
            site.assert_clean()
        with site.worker("--slots", "1"):
            later = site.enqueue("true")
            site.await_status(later, "completed")
            site.assert_clean()
        assert site.runs() == ["begin 1", "end 1"]

    def test_unknown_cluster_jobs_are_removed_and_those_of_other_installations_are_not(self, site: ClusterSite) -> None:
        executor = site.executor()
        orphan = site.spec("sleep 600", key=f"cm-{site.install}-{'0' * 32}-1")
        submitted(executor, orphan)
        other = KubernetesOther(site)
        foreign = site.spec("sleep 600", key=new_key())
        submitted(other.executor, foreign)
        executor.close()
        try:
            with site.worker("--slots", "1"):
                site.cluster.wait_for(lambda: not site.pods(orphan.key) and site.job(orphan.key) is None)
                later = site.enqueue("true")
                site.await_status(later, "completed")
                assert phase(other.executor, foreign.key) is Phase.RUNNING
                site.assert_clean()
        finally:
            other.executor.remove(foreign.key)
            other.executor.close()


class KubernetesOther:
    """Another installation in the namespace of a site."""

    def __init__(self, site: ClusterSite) -> None:
        install, site.install = site.install, f"other-{site.install}"
        self.executor = site.executor()
        site.install = install


@pytest.mark.without_database
class TestNames:
    def test_a_second_submit_adopts_the_cluster_job_that_the_first_has_created(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec(f"{_RUN}; sleep 600")
        submitted(executor, spec)
        heir = harness.executor()
        # Asked for at once, before the heir has seen anything of the cluster.
        assert submitted(heir, spec) == spec.key
        for each in (executor, heir):
            assert phase(each, spec.key) is Phase.RUNNING
        assert len(harness.pods(spec.key)) == 1
        heir.remove(spec.key)
        wait_until(executor, lambda: phase(executor, spec.key) is not Phase.RUNNING)
        assert run_count(harness) == 1

    @pytest.mark.shows("explanation/kubernetes.md#two-controllers")
    def test_two_workers_that_launch_a_job_at_once_start_it_once(self, harness: KubernetesHarness) -> None:
        specs = [harness.spec(_RUN) for _ in range(5)]
        executors = [harness.executor() for _ in range(3)]
        barrier = threading.Barrier(len(executors))

        def launch(executor: Executor) -> list[str]:
            barrier.wait()
            return [submitted(executor, spec) for spec in specs]

        with ThreadPoolExecutor(len(executors)) as pool:
            handles = list(pool.map(launch, executors))
        assert handles == [[spec.key for spec in specs]] * len(executors)
        for spec in specs:
            assert all(ended(executor, spec.key).succeeded for executor in executors)
        assert run_count(harness) == len(specs)

    def test_a_foreign_cluster_job_of_the_same_name_is_neither_adopted_nor_changed(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec(_RUN)
        described = foreign_job(object_name(spec.key), harness.cluster.image)
        harness.cluster.batch.create_namespaced_job(harness.namespace, described)
        with pytest.raises(Rejected, match="Another Job has the name") as caught:
            submitted(executor, spec)
        assert caught.value.reason == "start"
        executor.remove(spec.key)
        job = harness.job(spec.key)
        assert job is not None
        assert job.metadata.deletion_timestamp is None
        assert run_count(harness) == 0

    def test_a_job_that_is_being_deleted_is_not_adopted_but_waited_for(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        """One of this installation's under the same key, that has not run."""
        spec, batch, name = harness.spec(_RUN), harness.cluster.batch, harness.namespace
        gone = harness.executor()
        held = "tests.example.com/held"
        gone._api.create_job(_suspended(gone, spec))
        job = object_name(spec.key)
        batch.patch_namespaced_job(job, name, {"metadata": {"finalizers": [FINALIZER, held]}})
        batch.delete_namespaced_job(job, name, propagation_policy="Background")
        former = harness.job(spec.key).metadata.uid
        with pytest.raises(Waiting, match="its former Job to be deleted"):
            executor.submit(spec)
        # Only what others hold of it keeps it from being gone.
        # A list replaces the other only in a patch of this kind.
        only_ours = [{"op": "replace", "path": "/metadata/finalizers", "value": [FINALIZER]}]
        batch.patch_namespaced_job(job, name, only_ours)
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        assert harness.job(spec.key).metadata.uid != former
        assert run_count(harness) == 1

    def test_an_attempt_whose_key_is_no_valid_object_name_runs(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("echo said", key=f"cm-An_Install.Name-{'x' * 80}-1")
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        heir = harness.executor()
        assert submitted(heir, spec) == spec.key
        assert ended(heir, spec.key).succeeded
        assert text(output(heir, spec.key)) == b"said\n"
        heir.remove(spec.key)
        harness.cluster.wait_for(lambda: harness.job(spec.key) is None)


def _suspended(executor: Any, spec: LaunchSpec) -> dict[str, Any]:
    """Return the attempt's own Job, suspended."""
    from container_manager.executors.kubernetes.job_manifests import job_manifest

    manifest = job_manifest(spec, executor._options, install=executor._install)
    return {**manifest, "spec": {**manifest["spec"], "suspend": True}}


def lose_create(executor: Executor, spec: LaunchSpec, way: ApiProxy, side: Side) -> None:
    """Submit an attempt whose create, or the answer to it, never arrives."""
    with ThreadPoolExecutor(1) as pool:
        way.hold("POST .*/jobs", side)
        launch = pool.submit(executor.submit, spec)
        way.await_held()
        way.cut()
        with pytest.raises(Unavailable):
            launch.result()


@pytest.mark.without_database
class TestLostAnswers:
    @pytest.mark.shows("explanation/kubernetes.md#lost-create")
    def test_a_create_request_whose_answer_was_lost_is_looked_up_and_not_repeated(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        executor, spec = harness.executor(kubeconfig=str(way.kubeconfig)), harness.spec(_RUN)
        lose_create(executor, spec, way, "answer")
        await_lists(executor)
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        assert run_count(harness) == 1
        assert len(way.asked("POST .*/jobs$")) == 1

    def test_a_pod_that_is_seen_before_its_job_is_not_taken_for_one_that_a_deleted_job_has_left(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        """The two are listed apart."""
        way.answer(r"GET .*/jobs\?", 503)
        executor = harness.executor(kubeconfig=str(way.kubeconfig))
        # Its pod has a node, and waits there.
        spec = harness.spec(_RUN, image=f"127.0.0.1:{free_port()}/nothing:1")
        lose_create(executor, spec, way, "answer")
        view = executor._view
        eventually(lambda: (found := view.attempt(spec.key)) is not None and found.recorded)
        with pytest.raises(Waiting, match="the image"):
            executor.submit(spec)
        assert len(way.asked("POST .*/jobs$")) == 1

    def test_a_create_request_that_never_arrived_is_sent_again(self, harness: KubernetesHarness, way: ApiProxy) -> None:
        executor, spec = harness.executor(kubeconfig=str(way.kubeconfig)), harness.spec(_RUN)
        lose_create(executor, spec, way, "request")
        await_lists(executor)
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        assert run_count(harness) == 1

    def test_a_refusal_after_a_lost_answer_does_not_prove_that_the_job_has_not_run(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        # As if what the first create makes were not to be seen yet.
        way.answer(r"GET .*/(jobs|pods)\?", 503)
        way.answer("GET .*/jobs/", 404, status_body(404, "NotFound", "jobs not found", kind="jobs"))
        executor, spec = harness.executor(kubeconfig=str(way.kubeconfig)), harness.spec(_RUN)
        lose_create(executor, spec, way, "answer")
        way.answer("POST .*/jobs$", 403, status_body(403, "Forbidden", 'admission webhook "w" denied the request: no'))
        with pytest.raises(Rejected, match="denied the request") as caught:
            executor.submit(spec)
        assert caught.value.reason == "lost"

    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_an_api_server_that_does_not_say_whether_the_job_exists_is_asked_again(
        self, harness: KubernetesHarness, way: ApiProxy, status: int
    ) -> None:
        """As one that has just started, and does not yet know who may do what."""
        executor, spec = harness.executor(kubeconfig=str(way.kubeconfig)), harness.spec(_RUN)
        lose_create(executor, spec, way, "request")
        said = status_body(status, "Forbidden", 'jobs.batch "x" is forbidden: User "u" cannot get resource "jobs"')
        way.answer("GET .*/jobs/", status, said, times=1)
        with suppress(Unavailable):
            submitted(executor, spec)
        submitted(executor, spec)
        await_lists(executor)
        assert ended(executor, spec.key).succeeded
        assert run_count(harness) == 1


@pytest.mark.without_database
class TestLeases:
    def test_an_executor_whose_heartbeat_is_overdue_creates_nothing(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec(_RUN)
        executor.heartbeat(-1.0)
        with pytest.raises(Unavailable, match="lease has run out"):
            executor.submit(spec)
        assert harness.job(spec.key) is None
        executor.heartbeat(60.0)
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded

    def test_a_launch_whose_attempt_was_lost_is_abandoned(self, harness: KubernetesHarness, way: ApiProxy) -> None:
        """As a worker that was frozen between two steps, and was taken for dead meanwhile."""
        mine = threading.Event()
        mine.set()
        executor = harness.executor(kubeconfig=str(way.kubeconfig))
        spec = replace(harness.spec(_RUN), secret_files={"key": b"x"}, is_wanted=mine.is_set)
        with ThreadPoolExecutor(1) as pool:
            way.hold("POST .*/jobs", "answer")
            launch = pool.submit(executor.submit, spec)
            way.await_held()
            mine.clear()
            way.release()
            with pytest.raises((Unavailable, Waiting)):
                launch.result()
        with pytest.raises((Unavailable, Waiting)):
            executor.submit(spec)
        executor.release(spec.key)
        assert len(way.asked("POST .*/jobs$")) == 1
        # The heir, whose it is, starts it.
        heir = harness.executor()
        submitted(heir, replace(spec, is_wanted=lambda: True))
        assert ended(heir, spec.key).succeeded
        assert run_count(harness) == 1


@pytest.mark.without_database
@pytest.mark.shows("explanation/kubernetes.md#two-pods")
class TestTwoPods:
    def second_pod(self, harness: KubernetesHarness, key: str, script: str) -> str:
        """Make a second pod of an attempt by hand, as a cluster may; return its name."""
        core = harness.cluster.core
        [pod] = harness.pods(key)
        described = copy.deepcopy(harness.cluster.client.sanitize_for_serialization(pod))
        labels = {name: value for name, value in described["metadata"]["labels"].items() if "job-name" not in name}
        labels = {name: value for name, value in labels.items() if "controller-uid" not in name}
        annotations = described["metadata"]["annotations"]
        name = f"{pod.metadata.name[:40]}-second"
        spec = described["spec"]
        spec.pop("nodeName")
        # What admission has added goes with the other pod's name.
        spec["containers"][0]["args"] = ["sh", "-c", script]
        core.create_namespaced_pod(
            harness.namespace, {"metadata": {"name": name, "labels": labels, "annotations": annotations}, "spec": spec}
        )
        return name

    def await_second(self, harness: KubernetesHarness, name: str) -> Callable[[], bool]:
        def is_gone() -> bool:
            found = harness.cluster.core.list_namespaced_pod(
                harness.namespace, field_selector=f"metadata.name={name}"
            ).items
            return not found

        return is_gone

    def test_a_second_pod_of_an_attempt_is_stopped_and_reported_and_the_attempt_is_lost_if_it_ran(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("touch $EFFECTS/ready; while ! test -e $EFFECTS/go; do sleep 0.1; done")
        submitted(executor, spec)
        harness.cluster.wait_for(lambda: harness.job(spec.key).metadata.annotations.get(POD_ANNOTATION))
        name = self.second_pod(harness, spec.key, "touch $EFFECTS/second; sleep 600")
        harness.cluster.wait_for(self.await_second(harness, name))
        (harness.effects() / "go").touch()
        status = ended(executor, spec.key)
        chunks = output(executor, spec.key)
        assert b"second pod of this attempt" in text(chunks, "system")
        if (harness.effects() / "second").exists():
            assert (status.succeeded, status.lost) == (False, True)
            assert "ran the program a second time" in status.message
        else:
            assert status.succeeded
        executor.remove(spec.key)

    @pytest.mark.shows("explanation/kubernetes.md#one-attempt-one-job-one-pod")
    def test_an_adopting_worker_takes_the_outcome_from_the_recorded_pod(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("sleep 600")
        submitted(executor, spec)
        wait_until(executor, lambda: harness.job(spec.key).metadata.annotations.get(POD_ANNOTATION))
        [pod] = harness.pods(spec.key)
        assert harness.job(spec.key).metadata.annotations[POD_ANNOTATION] == pod.metadata.uid
        executor.close()
        # It succeeds, and it is not the attempt's.
        name = self.second_pod(harness, spec.key, "true")

        def has_ended() -> bool:
            found = harness.cluster.core.read_namespaced_pod(name, harness.namespace)
            return bool(found.status.phase == "Succeeded")

        harness.cluster.wait_for(has_ended)
        harness.cluster.core.delete_namespaced_pod(pod.metadata.name, harness.namespace, grace_period_seconds=1)
        heir = harness.executor()
        heir.observe()
        status = ended(heir, spec.key)
        assert not status.succeeded
        heir.remove(spec.key)


@pytest.mark.without_database
@pytest.mark.shows("explanation/kubernetes.md#early-retry")
def test_a_retry_waits_until_the_former_attempt_has_ended(harness: KubernetesHarness, executor: Executor) -> None:
    """Its pod takes its grace period to end, and the two must not run beside each other."""
    script = "echo begin >> $EFFECTS/runs; trap 'sleep 3; echo end >> $EFFECTS/runs; exit 1' TERM; touch $EFFECTS/ready; while :; do sleep 0.1; done"
    first = harness.spec(script, grace_seconds=60)
    second = harness.spec("echo begin >> $EFFECTS/runs", key=first.key.removesuffix("-1") + "-2")
    submitted(executor, first)
    wait_until(executor, (harness.effects() / "ready").exists)
    executor.remove(first.key, failed=True)
    with pytest.raises(Waiting, match="the former attempt to end"):
        executor.submit(second)
    submitted(executor, second)
    assert ended(executor, second.key).succeeded
    assert (harness.effects() / "runs").read_text().split() == ["begin", "end", "begin"]
    executor.remove(second.key)


@pytest.mark.without_database
def test_a_retry_by_another_worker_waits_for_the_former_attempt_too(harness: KubernetesHarness) -> None:
    """One that has just begun and has not yet seen what the cluster holds."""
    first, former = harness.spec("touch $EFFECTS/ready; sleep 600"), harness.executor()
    second = harness.spec("true", key=first.key.removesuffix("-1") + "-2")
    submitted(former, first)
    wait_until(former, (harness.effects() / "ready").exists)
    heir = harness.executor()
    eventually(lambda: _waits_for_former(heir, second))
    assert harness.job(second.key) is None
    former.remove(first.key)
    submitted(heir, second)
    assert ended(heir, second.key).succeeded


def _waits_for_former(executor: Executor, spec: LaunchSpec) -> bool:
    try:
        executor.submit(spec)
    except Waiting as waiting:
        return "former attempt" in str(waiting)
    except Unavailable:
        return False
    raise AssertionError("It was launched beside the former attempt.")

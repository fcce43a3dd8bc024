"""An API server that is killed, absent and back, and an etcd that is restarted: nothing is lost, doubled or made up."""

from __future__ import annotations

import time

import pytest

from container_manager.executors.base import Executor, LaunchSpec, Phase, Rejected, Unavailable, Waiting
from container_manager.models import ContainerJob, JobAttempt
from container_manager.testing.conformance import ended, observation, output, submitted, text, wait_until

from ..polling import PATIENCE_SECONDS, eventually
from ..ports import free_port
from .api_proxy import ApiProxy
from .cluster_site import BEGUN, DONE, ClusterSite, attempts_of, output_of
from .control import ClusterControl
from .kubernetes_harness import KubernetesHarness, await_lists, is_away
from .registries import IMAGE_NAME

_ABSENCE_SECONDS = 30.0


@pytest.mark.django_db(transaction=True)
class TestWorkers:
    @pytest.mark.shows(
        "explanation/kubernetes.md#when-something-is-away", "explanation/kubernetes.md#absent-api-server"
    )
    def test_an_api_server_that_is_killed_and_absent_for_30_seconds_costs_no_attempt(
        self, site: ClusterSite, control: ClusterControl
    ) -> None:
        go = site.gate()
        ending = "while ! test -e $EFFECTS/away; do sleep 0.1; done; echo 'end short' >> $EFFECTS/short; exit 7"
        with site.worker("--slots", "4") as process:
            long = site.start(f"{BEGUN}; echo first; read word < $EFFECTS/go; echo last; {DONE}", max_retries=3)
            short = site.enqueue(ending)
            eventually(lambda: JobAttempt.objects.filter(job=short).exclude(handle="").exists())
            with control.without_api_server():
                away = time.monotonic()
                # It ends while nobody can be told.
                (site.effects() / "away").touch()
                queued = site.enqueue("exit 3")
                eventually((site.effects() / "short").exists)
                eventually(lambda: time.monotonic() - away >= _ABSENCE_SECONDS)
                for job in (long, short):
                    job.refresh_from_db()
                    assert (job.status, attempts_of(job)) == ("running", [(1, None, "")])
                queued.refresh_from_db()
                assert queued.status in ("queued", "running")
                assert process.poll() is None
            site.await_status(short, "failed")
            assert attempts_of(short) == [(1, 7, "error")]
            site.await_status(queued, "failed")
            assert attempts_of(queued) == [(1, 3, "error")], queued.last_error
            go.write_text("\n")
            site.await_status(long, "completed")
            assert attempts_of(long) == [(1, 0, "")]
            assert output_of(long) == b"first\nlast\n"
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_an_etcd_that_is_restarted_costs_no_attempt(self, site: ClusterSite, control: ClusterControl) -> None:
        """Meanwhile the API server answers with errors of its own, and with what it has in memory."""
        go = site.gate()
        with site.worker("--slots", "4"):
            job = site.start(f"{BEGUN}; read word < $EFFECTS/go; {DONE}", max_retries=3)
            control.kill_etcd()
            queued = site.enqueue("exit 3")
            killed = time.monotonic()
            eventually(lambda: time.monotonic() - killed > 5)
            control.start_etcd()
            site.await_status(queued, "failed")
            assert attempts_of(queued) == [(1, 3, "error")], queued.last_error
            go.write_text("\n")
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    @pytest.mark.shows("explanation/kubernetes.md#cancelled-job")
    def test_a_job_that_is_cancelled_while_the_api_server_is_away_is_stopped_when_it_is_back(
        self, site: ClusterSite, control: ClusterControl
    ) -> None:
        with site.worker("--slots", "2"):
            job = site.start(f"trap '{DONE}; exit 5' TERM; {BEGUN}; while :; do sleep 0.1; done", grace_seconds=30)
            with control.without_api_server():
                site.cancel(job)
                away = time.monotonic()
                eventually(lambda: time.monotonic() - away > 5)
                # Nobody knows that it has ended.
                assert JobAttempt.objects.get(job=job).finished_at is None
            site.await_status(job, "cancelled")
            assert job.attempts.get().exit_code == 5
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_a_worker_that_starts_while_the_api_server_is_away_works_when_it_is_back(
        self, site: ClusterSite, control: ClusterControl
    ) -> None:
        go = site.gate()
        with site.worker("--slots", "2") as first:
            job = site.start(f"{BEGUN}; read word < $EFFECTS/go; {DONE}", max_retries=3)
            control.kill_api_server()
            site.kill(first)
        with site.worker("--slots", "2") as second:
            go.write_text("\n")
            site.await_runs("begin 1", "end 1")
            began = time.monotonic()
            eventually(lambda: time.monotonic() - began > 5)
            assert second.poll() is None
            assert ContainerJob.objects.get(pk=job.pk).status == "running"
            control.start_api_server()
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            site.assert_clean()


@pytest.mark.without_database
class TestAway:
    def test_an_absent_api_server_is_unavailable_and_its_attempts_are_observed_again_when_it_is_back(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        executor = harness.executor(kubeconfig=str(way.kubeconfig))
        spec = harness.spec("echo first; while ! test -e $EFFECTS/go; do sleep 0.1; done; echo last; exit 7")
        submitted(executor, spec)
        way.cut(refuse_new=True)
        wait_until(executor, lambda: is_away(executor))
        assert not executor.check().ok
        with pytest.raises(Unavailable):
            executor.submit(harness.spec("true"))
        (harness.effects() / "go").touch()
        way.speak()
        await_lists(executor)
        assert ended(executor, spec.key).code == 7
        assert text(output(executor, spec.key)) == b"first\nlast\n"
        executor.remove(spec.key)

    def test_an_api_server_that_never_answers_is_unavailable(self, harness: KubernetesHarness, way: ApiProxy) -> None:
        executor = harness.executor(kubeconfig=str(way.kubeconfig), timeout_seconds=2)
        spec = harness.spec("while ! test -e $EFFECTS/go; do sleep 0.1; done; exit 7")
        submitted(executor, spec)
        way.fall_silent(for_new=True)
        wait_until(executor, lambda: is_away(executor))
        (harness.effects() / "go").touch()
        way.speak()
        await_lists(executor)
        assert ended(executor, spec.key).code == 7

    def test_the_time_limit_of_an_image_pull_does_not_run_while_the_api_server_is_away(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        executor = harness.executor(kubeconfig=str(way.kubeconfig), image_seconds=8)
        spec = harness.spec_without_volumes("true", image=f"127.0.0.1:{free_port()}/{IMAGE_NAME}")
        waiting = None
        while waiting is None or "connection refused" not in str(waiting):
            if waiting is not None:
                waiting.until.result(PATIENCE_SECONDS)
            with pytest.raises(Waiting) as caught:
                executor.submit(spec)
            waiting = caught.value
        way.cut(refuse_new=True)
        wait_until(executor, lambda: is_away(executor))
        away = time.monotonic()
        # Longer than its clock.
        while time.monotonic() - away < 12:
            executor.watch(0.1)
        if waiting.until.done():
            waiting.until.result()
            with pytest.raises((Waiting, Unavailable)):
                executor.submit(spec)
        way.speak()
        with pytest.raises(Rejected, match="Gave up after 8 s of waiting") as rejected:
            submitted_patiently(executor, spec)
        assert rejected.value.reason == "unavailable"
        executor.remove(spec.key)
        harness.cluster.wait_for(lambda: harness.job(spec.key) is None)

    def test_a_stop_that_cannot_be_sent_is_sent_later(self, harness: KubernetesHarness, way: ApiProxy) -> None:
        executor = harness.executor(kubeconfig=str(way.kubeconfig))
        spec = harness.spec("trap 'exit 5' TERM; touch $EFFECTS/ready; while :; do sleep 0.1; done", grace_seconds=60)
        submitted(executor, spec)
        wait_until(executor, (harness.effects() / "ready").exists)
        way.cut(refuse_new=True)
        wait_until(executor, lambda: is_away(executor))
        executor.stop(spec.key, 60.0)
        way.speak()
        await_lists(executor)
        assert ended(executor, spec.key).code == 5

    def test_a_removal_that_cannot_be_sent_is_unavailable_and_works_later(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        executor = harness.executor(kubeconfig=str(way.kubeconfig))
        spec = harness.spec("true")
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        way.cut(refuse_new=True)
        with pytest.raises(Unavailable):
            executor.remove(spec.key)
        way.speak()
        await_lists(executor)
        found = observation(executor, spec.key)
        assert found is not None
        assert found.phase is Phase.EXITED
        executor.remove(spec.key)
        harness.cluster.wait_for(lambda: harness.job(spec.key) is None)

    def test_an_executor_is_closed_at_once_though_the_api_server_never_answers(
        self, harness: KubernetesHarness, way: ApiProxy
    ) -> None:
        executor = harness.executor(kubeconfig=str(way.kubeconfig))
        spec = harness.spec("sleep 600")
        submitted(executor, spec)
        way.fall_silent(for_new=True)
        began = time.monotonic()
        executor.close()
        assert time.monotonic() - began < 10


def submitted_patiently(executor: Executor, spec: LaunchSpec) -> None:
    """Submit an attempt until its launch waits for nothing any more, also while the API server is away."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            executor.submit(spec)
        except Waiting as waiting:
            waiting.until.result(PATIENCE_SECONDS)
        except Unavailable:
            executor.watch(0.5)
        else:
            return

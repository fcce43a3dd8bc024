"""What a launch waits for: images, nodes, objects. It says so, ends by its own clock, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import pytest

from container_manager.executors.base import Executor, Rejected, Waiting
from container_manager.testing.conformance import ended, submitted, wait_until

from ..polling import PATIENCE_SECONDS, eventually
from ..ports import free_port
from .cluster_site import BEGUN, DONE, ClusterSite, attempts_of
from .control import ClusterControl
from .kubernetes_harness import KubernetesHarness
from .registries import IMAGE_NAME, Registries


def registries(harness: KubernetesHarness) -> Registries:
    assert harness.cluster.control is not None
    return harness.cluster.control.registries


def waits(executor: Executor, spec: Any) -> Waiting:
    """Submit what must wait; return how it does."""
    with pytest.raises(Waiting) as caught:
        executor.submit(spec)
    return caught.value


def await_words(executor: Executor, spec: Any, words: str) -> Waiting:
    """Submit an attempt until it says that it waits for something with these words."""
    waiting = waits(executor, spec)
    while words not in str(waiting):
        waiting.until.result(PATIENCE_SECONDS)
        waiting = waits(executor, spec)
    return waiting


class UnsureRegistry:
    """The way to the open registry, that answers with an error so many times: as a gateway before it does."""

    def __init__(self, target: str, status: int, times: int) -> None:
        outer = self
        self.left = times

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if outer.left:
                    outer.left -= 1
                    self.answer(status, b"upstream is out of order", {})
                    return
                headers = {name: value for name, value in self.headers.items() if name != "Host"}
                request = Request(f"http://{target}{self.path}", headers=headers, method=self.command)
                with urlopen(request) as found:  # noqa: S310  # as above
                    self.answer(found.status, found.read(), dict(found.headers))

            do_HEAD = do_GET  # noqa: N815  # as the server looks for it

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name in ("Content-Type", "Docker-Content-Digest", "Docker-Distribution-Api-Version"):
                    if name in headers:
                        self.send_header(name, headers[name])
                self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def unsure_registry(target: str, status: int, times: int) -> Iterator[UnsureRegistry]:
    running = UnsureRegistry(target, status, times)
    try:
        yield running
    finally:
        running.close()


def nothing_is_left(harness: KubernetesHarness, executor: Executor, key: str) -> None:
    """Assert that an attempt whose end is stored leaves nothing, and ran nothing by then."""
    executor.remove(key)
    harness.cluster.wait_for(lambda: harness.job(key) is None and not harness.pods(key))


@pytest.mark.without_database
class TestImages:
    @pytest.mark.shows("explanation/kubernetes.md#image-pull")
    def test_a_missing_image_fails_the_job_at_once_and_leaves_nothing(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("true", image=f"{registries(harness).address}/team/job:missing")
        with pytest.raises(Rejected, match="not found") as caught:
            submitted(executor, spec)
        assert caught.value.reason == "image"
        nothing_is_left(harness, executor, spec.key)

    def test_a_registry_that_denies_an_image_fails_the_job_at_once(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("true", image=f"{registries(harness).private_address}/{IMAGE_NAME}")
        with pytest.raises(Rejected) as caught:
            submitted(executor, spec)
        assert caught.value.reason == "image"
        assert spec.job.image in str(caught.value)
        nothing_is_left(harness, executor, spec.key)

    def test_a_pull_secret_opens_a_private_registry(self, harness: KubernetesHarness) -> None:
        found = registries(harness)
        harness.cluster.core.create_namespaced_secret(harness.namespace, found.pull_secret("login"))
        executor = harness.executor(image_pull_secrets=["login"], pull="always")
        spec = harness.spec("exit 7", image=f"{found.private_address}/{IMAGE_NAME}")
        submitted(executor, spec)
        assert ended(executor, spec.key).code == 7
        executor.remove(spec.key)

    @pytest.mark.shows("explanation/kubernetes.md#what-a-launch-waits-for")
    def test_a_denied_pull_on_a_node_that_lacks_the_login_is_not_final(self, harness: KubernetesHarness) -> None:
        found = registries(harness)
        executor = harness.executor(image_pull_secrets=["late"], pull="always")
        spec = harness.spec("exit 7", image=f"{found.private_address}/{IMAGE_NAME}")
        await_words(executor, spec, "401 Unauthorized")
        harness.cluster.core.create_namespaced_secret(harness.namespace, found.pull_secret("late"))
        submitted(executor, spec)
        assert ended(executor, spec.key).code == 7
        executor.remove(spec.key)

    @pytest.mark.slow
    def test_a_pull_secret_without_access_fails_the_job_with_reason_image(self, harness: KubernetesHarness) -> None:
        executor = harness.executor(image_pull_secrets=["missing"], pull="always")
        spec = harness.spec("true", image=f"{registries(harness).private_address}/{IMAGE_NAME}")
        with pytest.raises(Rejected, match="401 Unauthorized") as caught:
            submitted(executor, spec)
        assert caught.value.reason == "image"
        nothing_is_left(harness, executor, spec.key)

    @pytest.mark.shows("explanation/kubernetes.md#image-pull")
    def test_an_unreachable_registry_is_waited_for_as_long_as_the_option_says(self, harness: KubernetesHarness) -> None:
        executor = harness.executor(image_seconds=3)
        spec = harness.spec_without_volumes("true", image=f"127.0.0.1:{free_port()}/{IMAGE_NAME}")
        with pytest.raises(
            Rejected, match=r"Gave up after 3 s of waiting for the image .*connection refused"
        ) as caught:
            submitted(executor, spec)
        assert caught.value.reason == "unavailable"
        nothing_is_left(harness, executor, spec.key)

    @pytest.mark.parametrize("status", [429, pytest.param(500, marks=pytest.mark.slow), 503])
    @pytest.mark.shows("explanation/kubernetes.md#image-pull")
    def test_an_error_of_a_registry_is_waited_for(
        self, harness: KubernetesHarness, executor: Executor, status: int
    ) -> None:
        with unsure_registry(registries(harness).address, status, times=2) as way:
            spec = harness.spec("exit 7", image=f"{way.address}/{IMAGE_NAME}")
            submitted(executor, spec)
            assert way.left == 0
            assert ended(executor, spec.key).code == 7
        executor.remove(spec.key)

    @pytest.mark.shows("explanation/kubernetes.md#image-pull")
    def test_a_registry_that_comes_back_lets_its_jobs_run(
        self, harness: KubernetesHarness, executor: Executor, control: ClusterControl
    ) -> None:
        found = registries(harness)
        # A name that no node has pulled before.
        name = f"{harness.namespace}/job:1"
        found.push(control.nodes["node1"], name)
        control.process("registry").end()
        spec = harness.spec("exit 7", image=f"{found.address}/{name}")
        await_words(executor, spec, "connection refused")
        control.process("registry").start()
        submitted(executor, spec)
        assert ended(executor, spec.key).code == 7
        executor.remove(spec.key)

    def test_a_missing_image_with_pull_policy_never_fails_the_job_at_once(self, harness: KubernetesHarness) -> None:
        executor = harness.executor(pull="never")
        spec = harness.spec("true", image=f"cm-test:{harness.namespace}")
        with pytest.raises(Rejected, match="ErrImageNeverPull") as caught:
            submitted(executor, spec)
        assert caught.value.reason == "image"
        nothing_is_left(harness, executor, spec.key)


@pytest.mark.without_database
class TestNodes:
    @pytest.mark.shows("explanation/kubernetes.md#what-a-launch-waits-for", "explanation/kubernetes.md#late-pod")
    @pytest.mark.shows("explanation/kubernetes.md#what-a-launch-waits-for")
    def test_a_job_that_no_node_accepts_is_unschedulable_and_deleted_before_it_fails(
        self, harness: KubernetesHarness
    ) -> None:
        executor = harness.executor(unschedulable_seconds=3)
        spec = harness.spec("true", memory_bytes=2**50)
        with pytest.raises(Rejected, match=r"Gave up after 3 s of waiting for a node: .*Insufficient memory") as caught:
            submitted(executor, spec)
        assert caught.value.reason == "unschedulable"
        # Confirmed: no pod can start later.
        assert harness.pods(spec.key) == []
        nothing_is_left(harness, executor, spec.key)

    def test_an_unschedulable_job_runs_when_a_node_accepts_it(self, harness: KubernetesHarness) -> None:
        executor = harness.executor(node_pools={"later": {"node_selector": {harness.namespace: "yes"}}})
        spec = harness.spec("exit 7", container={"node_pool": "later"})
        await_words(executor, spec, "didn't match Pod's node affinity/selector")
        core = harness.cluster.core
        core.patch_node("node2", {"metadata": {"labels": {harness.namespace: "yes"}}})
        try:
            submitted(executor, spec)
            assert ended(executor, spec.key).code == 7
            assert [pod.spec.node_name for pod in harness.pods(spec.key)] == ["node2"]
        finally:
            core.patch_node("node2", {"metadata": {"labels": {harness.namespace: None}}})
        executor.remove(spec.key)

    def test_a_stop_ends_the_wait_for_a_node_and_leaves_nothing(self, harness: KubernetesHarness) -> None:
        executor = harness.executor(node_pools={"never": {"node_selector": {harness.namespace: "yes"}}})
        spec = harness.spec("true", container={"node_pool": "never"})
        waiting = await_words(executor, spec, "a node")
        executor.stop(spec.key, 30.0)
        error = waiting.until.exception(PATIENCE_SECONDS)
        assert isinstance(error, Rejected)
        assert "stopped before it had started" in str(error)
        assert harness.pods(spec.key) == []
        nothing_is_left(harness, executor, spec.key)


@pytest.mark.without_database
class TestMissingObjects:
    def test_a_job_runs_once_its_missing_secret_is_created(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        spec = harness.spec("echo $WORD > $EFFECTS/said", secrets={"WORD": "kubernetes:mail/word"})
        await_words(executor, spec, 'secret "mail" not found')
        harness.cluster.core.create_namespaced_secret(
            harness.namespace, {"metadata": {"name": "mail"}, "stringData": {"word": "horse"}}
        )
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        assert (harness.effects() / "said").read_text() == "horse\n"
        executor.remove(spec.key)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"secrets": {"WORD": "kubernetes:mail/word"}}, 'secret "mail" not found'),
            ({"secret_files": {"word": "kubernetes:mail/word"}}, 'secret "mail" not found'),
            ({"secrets": {"WORD": "kubernetes:other/word"}}, "couldn't find key word"),
        ],
        ids=["variable", "file", "key"],
    )
    def test_a_secret_that_is_never_created_fails_the_job_at_start(
        self, harness: KubernetesHarness, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], words: str
    ) -> None:
        monkeypatch.setattr("container_manager.executors.kubernetes.waiting_launches._CONFIG_SECONDS", 5.0)
        harness.cluster.core.create_namespaced_secret(
            harness.namespace, {"metadata": {"name": "other"}, "stringData": {"another": "horse"}}
        )
        executor, spec = harness.executor(), with_references(harness, fields)
        with pytest.raises(Rejected) as caught:
            submitted(executor, spec)
        assert caught.value.reason == "start"
        assert words in str(caught.value)
        nothing_is_left(harness, executor, spec.key)

    def test_a_missing_volume_claim_is_reported_and_its_job_runs_once_it_exists(
        self, harness: KubernetesHarness
    ) -> None:
        executor = harness.executor(volumes={"effects": harness.options["volumes"]["effects"], "data": {"claim": "d"}})
        spec = harness.spec("exit 7", container={"volumes": {"effects": "/effects", "data": "/data"}})
        waiting = await_words(executor, spec, 'persistentvolumeclaim "d" not found')
        executor.stop(spec.key, 0.0)
        assert isinstance(waiting.until.exception(PATIENCE_SECONDS), Rejected)
        nothing_is_left(harness, executor, spec.key)


def with_references(harness: KubernetesHarness, fields: dict[str, Any]) -> Any:
    """Return a launch whose job refers to secrets; the worker has the values of none of them."""
    from dataclasses import replace

    spec = harness.spec("true")
    return replace(spec, job=spec.job._replace(**fields))


@pytest.mark.django_db(transaction=True)
class TestCancel:
    @pytest.mark.shows("explanation/kubernetes.md#cancelled-job")
    def test_a_job_that_hangs_is_killed_after_its_grace_period_and_is_gone(self, site: ClusterSite) -> None:
        with site.worker("--slots", "1"):
            job = site.start(f"trap '' TERM; {BEGUN}; while :; do sleep 0.1; done", grace_seconds=2)
            site.cancel(job)
            site.await_status(job, "cancelled")
            attempt = job.attempts.get()
            assert (attempt.exit_code, attempt.signal) == (137, 9)
            site.assert_clean()

    def test_a_cancelled_job_that_exits_by_itself_shows_its_exit_code(self, site: ClusterSite) -> None:
        with site.worker("--slots", "1"):
            script = f"trap '{DONE}; exit 5' TERM; {BEGUN}; while :; do sleep 0.1; done"
            job = site.start(script, grace_seconds=60)
            site.cancel(job)
            site.await_status(job, "cancelled")
            assert job.attempts.get().exit_code == 5
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_a_job_that_is_killed_during_its_grace_period_is_gone_after_that_period(self, site: ClusterSite) -> None:
        """A kubelet does not look at a shorter one any more."""
        with site.worker("--slots", "1"):
            job = site.start(f"trap '{DONE}' TERM; {BEGUN}; while :; do sleep 0.1; done", grace_seconds=15)
            site.cancel(job)
            site.await_runs("begin 1", "end 1")
            site.cancel(job, now=True)
            site.await_status(job, "cancelled")
            assert job.attempts.get().exit_code == 137
            site.assert_clean()

    def test_a_job_that_waits_for_its_image_is_cancelled_and_leaves_nothing(self, site: ClusterSite) -> None:
        with site.worker("--slots", "1"):
            job = site.enqueue(f"{BEGUN}; {DONE}", image=f"127.0.0.1:{free_port()}/{IMAGE_NAME}")
            site.await_wait(job, "connection refused")
            site.cancel(job)
            site.await_status(job, "cancelled")
            site.assert_clean()
        assert site.runs() == []

    def test_a_timeout_counts_from_the_programs_start_and_not_while_it_waits(self, site: ClusterSite) -> None:
        pools = {"later": {"node_selector": {site.namespace: "yes"}}}
        core = site.cluster.core
        with site.worker("--slots", "1", options={"node_pools": pools}):
            job = site.enqueue(f"{BEGUN}; sleep 2; {DONE}", container={"node_pool": "later"}, timeout_seconds=60)
            site.await_wait(job, "a node")
            core.patch_node("node1", {"metadata": {"labels": {site.namespace: "yes"}}})
            try:
                site.await_status(job, "completed")
            finally:
                core.patch_node("node1", {"metadata": {"labels": {site.namespace: None}}})
            assert attempts_of(job) == [(1, 0, "")]
            site.assert_clean()

    def test_many_waiting_launches_do_not_keep_other_jobs_from_running(self, site: ClusterSite) -> None:
        """A wait takes no thread: more of them than there are threads."""
        with site.worker("--slots", "12", options={"node_pools": {"never": {"node_selector": {"no": "where"}}}}):
            waiting = [site.enqueue("true", container={"node_pool": "never"}) for _ in range(8)]
            for job in waiting:
                site.await_wait(job, "a node")
            well = site.enqueue("true")
            site.await_status(well, "completed")
            for job in waiting:
                site.cancel(job)
            for job in waiting:
                site.await_status(job, "cancelled")
            site.assert_clean()


@pytest.mark.without_database
@pytest.mark.shows("explanation/kubernetes.md#late-pod")
def test_an_attempt_that_is_stopped_while_its_pod_has_no_node_yet_runs_nothing(
    harness: KubernetesHarness, executor: Executor
) -> None:
    """A stop right after the create, before the scheduler has seen the pod or after: it ends in either way."""
    for _ in range(5):
        spec = harness.spec("echo ran >> $EFFECTS/runs; sleep 600")
        with suppress(Waiting):
            executor.submit(spec)
        executor.stop(spec.key, 1.0)
        nothing_is_left(harness, executor, spec.key)
    eventually(lambda: not executor.observe().attempts)
    wait_until(executor, lambda: not executor.observe().attempts)

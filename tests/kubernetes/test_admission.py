"""Admission that puts jobs off or refuses them: it says why they wait, burns no attempt, and ends what cannot change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from container_manager.executors.kubernetes.labels import FINALIZER, object_name

from ..polling import eventually
from ..ports import free_port
from .api_proxy import ApiProxy, status_body
from .cluster_site import BEGUN, DONE, ClusterSite, attempts_of, output_of

pytestmark = pytest.mark.django_db(transaction=True)
_CREATE = "POST .*/jobs$"


def limit_namespace(site: ClusterSite, **hard: str) -> None:
    """Have a quota in the site's namespace from now on, once it counts."""
    core = site.cluster.core
    core.create_namespaced_resource_quota(site.namespace, {"metadata": {"name": "little"}, "spec": {"hard": hard}})
    site.cluster.wait_for(
        lambda: core.read_namespaced_resource_quota("little", site.namespace).status.hard == hard,
    )


def test_a_quota_of_jobs_puts_a_create_off_until_it_is_freed(site: ClusterSite) -> None:
    limit_namespace(site, **{"count/jobs.batch": "0"})
    with site.worker("--slots", "2"):
        job = site.enqueue(f"{BEGUN}; {DONE}")
        site.await_wait(job, "exceeded quota: little")
        assert attempts_of(job) == [(1, None, "")]
        site.cluster.core.delete_namespaced_resource_quota("little", site.namespace)
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        assert site.runs() == ["begin 1", "end 1"]
        assert b"exceeded quota" in output_of(job, "system")
        site.assert_clean()


@pytest.mark.shows("explanation/kubernetes.md#what-a-launch-waits-for", "explanation/kubernetes.md#exceeded-quota")
def test_a_quota_of_pods_shows_why_a_job_waits_until_it_is_freed(site: ClusterSite) -> None:
    """The Job is there, and its controller is refused the pod: only events say so."""
    limit_namespace(site, pods="0")
    with site.worker("--slots", "2"):
        job = site.enqueue(f"{BEGUN}; {DONE}")
        site.await_wait(job, "exceeded quota: little")
        site.cluster.core.delete_namespaced_resource_quota("little", site.namespace)
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        site.assert_clean()


def test_a_job_that_waits_for_quota_is_cancelled_and_leaves_nothing(site: ClusterSite) -> None:
    limit_namespace(site, pods="0")
    with site.worker("--slots", "2"):
        job = site.enqueue(f"{BEGUN}; {DONE}")
        site.await_wait(job, "exceeded quota: little")
        site.cancel(job)
        site.await_status(job, "cancelled")
        site.assert_clean()
        site.cluster.core.delete_namespaced_resource_quota("little", site.namespace)
        later = site.enqueue("true")
        site.await_status(later, "completed")
    assert site.runs() == []


def test_other_jobs_run_while_a_job_waits_for_quota(site: ClusterSite) -> None:
    limit_namespace(site, **{"limits.memory": "64Mi"})
    site.options["memory_bytes"] = 256 * 1024 * 1024
    with site.worker("--slots", "2"):
        large = site.enqueue("true", memory_bytes=128 * 1024 * 1024)
        site.await_wait(large, "exceeded quota")
        small = site.enqueue("true", memory_bytes=32 * 1024 * 1024)
        site.await_status(small, "completed")
        assert attempts_of(large) == [(1, None, "")]
        site.cluster.core.delete_namespaced_resource_quota("little", site.namespace)
        site.await_status(large, "completed")
        site.assert_clean()


@pytest.mark.shows("explanation/kubernetes.md#api-server-errors")
def test_a_server_that_is_overloaded_is_asked_again_when_it_says(site: ClusterSite, way: ApiProxy) -> None:
    seconds, said = 4, status_body(429, "TooManyRequests", "too many requests, please try again later")
    way.answer(_CREATE, 429, said, times=2, Retry_After=str(seconds))
    with site.worker("--slots", "1", kubeconfig=way.kubeconfig):
        job = site.enqueue(f"{BEGUN}; {DONE}")
        eventually(lambda: len(way.asked(_CREATE)) == 1)
        first = time.monotonic()
        site.await_wait(job, "429")
        eventually(lambda: len(way.asked(_CREATE)) == 2)
        assert time.monotonic() - first > seconds - 1
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        assert len(way.asked(_CREATE)) == 3
        assert site.runs() == ["begin 1", "end 1"]
        site.assert_clean()


@pytest.mark.parametrize(
    "status", [pytest.param(500, marks=pytest.mark.slow), 502, 503, pytest.param(504, marks=pytest.mark.slow)]
)
@pytest.mark.shows("explanation/kubernetes.md#api-server-errors")
def test_a_server_that_fails_burns_no_attempt_and_starts_nothing_twice(
    site: ClusterSite, way: ApiProxy, status: int
) -> None:
    way.answer(_CREATE, status, b"upstream connect error", times=2)
    with site.worker("--slots", "1", kubeconfig=way.kubeconfig):
        job = site.enqueue(f"{BEGUN}; {DONE}")
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        assert site.runs() == ["begin 1", "end 1"]
        site.assert_clean()


@pytest.mark.parametrize(
    "pattern",
    ["GET .*", "PATCH .*", "DELETE .*", "POST .*/secrets"],
    ids=["reads", "patches", "deletes", "secrets"],
)
@pytest.mark.parametrize("status", [pytest.param(429, marks=pytest.mark.slow), 500])
@pytest.mark.shows("explanation/kubernetes.md#api-server-errors")
def test_errors_of_the_api_server_at_any_other_request_end_no_attempt(
    site: ClusterSite, way: ApiProxy, allowed_secrets: dict[str, Any], pattern: str, status: int
) -> None:
    variables, settings = {"CM_SECRET_WORD": "horse"}, {**allowed_secrets, "MASK_SECRETS": False}
    with site.worker("--slots", "2", kubeconfig=way.kubeconfig, variables=variables, **settings):
        first = site.enqueue("true")
        site.await_status(first, "completed")
        way.answer(pattern, status, status_body(status, "InternalError", "it failed"), times=3)
        job = site.enqueue(f"{BEGUN}; echo $CM_WORD; {DONE}", secrets={"CM_WORD": "env:CM_SECRET_WORD"})
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]
        assert output_of(job) == b"horse\n"
        assert site.runs() == ["begin 1", "end 1"]
        way.be_faithful()
        site.assert_clean()


def test_a_pod_that_pod_security_refuses_fails_at_start_with_the_message_of_pod_security(site: ClusterSite) -> None:
    with site.worker("--slots", "2", options={"allow_root": True}):
        job = site.enqueue(f"{BEGUN}; {DONE}", container={"user": "0"}, max_retries=3)
        site.await_status(job, "failed")
        assert attempts_of(job) == [(1, None, "start")]
        assert 'violates PodSecurity "restricted' in job.last_error
        site.assert_clean()
    assert site.runs() == []


def test_an_invalid_template_fails_at_start_with_the_servers_words(site: ClusterSite) -> None:
    template = {"spec": {"dnsPolicy": "Nonsense"}}
    with site.worker("--slots", "2", options={"pod_template": template}):
        job = site.enqueue("true", max_retries=3)
        site.await_status(job, "failed")
        assert attempts_of(job) == [(1, None, "start")]
        assert "Nonsense" in job.last_error
        site.assert_clean()


class TestWebhooksAndPolicies:
    """They are the whole cluster's, but look at the site's namespace alone."""

    @contextmanager
    def policy(self, site: ClusterSite, *, group: str, version: str, resource: str) -> Iterator[None]:
        from kubernetes.client import AdmissionregistrationV1Api, ApiException

        api: Any = AdmissionregistrationV1Api(site.cluster.client)
        name = site.namespace
        rule = {"apiGroups": [group], "apiVersions": [version], "operations": ["CREATE"], "resources": [resource]}
        api.create_validating_admission_policy(
            {
                "metadata": {"name": name},
                "spec": {
                    "failurePolicy": "Fail",
                    "matchConstraints": {"resourceRules": [rule], "namespaceSelector": _namespace_only(site)},
                    "validations": [{"expression": "false", "message": "not on Fridays"}],
                },
            }
        )
        api.create_validating_admission_policy_binding(
            {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}
        )
        try:
            # It takes a moment to be in force.
            def is_in_force() -> bool:
                kind = _job if resource == "jobs" else _pod
                try:
                    kind(site, dry_run="All")
                except ApiException as error:
                    return "not on Fridays" in str(error.body)
                return False

            site.cluster.wait_for(is_in_force)
            yield
        finally:
            api.delete_validating_admission_policy_binding(name)
            api.delete_validating_admission_policy(name)

    def test_a_policy_that_denies_the_job_fails_it_at_start_with_the_message_of_the_policy(
        self, site: ClusterSite
    ) -> None:
        with self.policy(site, group="batch", version="v1", resource="jobs"), site.worker("--slots", "1"):
            job = site.enqueue("true", max_retries=3)
            site.await_status(job, "failed")
            assert attempts_of(job) == [(1, None, "start")]
            assert "not on Fridays" in job.last_error
            site.assert_clean()

    def test_a_policy_that_denies_the_pod_fails_the_job_at_start_with_the_message_of_the_policy(
        self, site: ClusterSite
    ) -> None:
        with self.policy(site, group="", version="v1", resource="pods"), site.worker("--slots", "1"):
            job = site.enqueue("true", max_retries=3)
            site.await_status(job, "failed")
            assert attempts_of(job) == [(1, None, "start")]
            assert "not on Fridays" in job.last_error
            site.assert_clean()

    @pytest.mark.parametrize(("group", "resource"), [("batch", "jobs"), ("", "pods")], ids=["jobs", "pods"])
    def test_a_launch_waits_for_an_unavailable_webhook(self, site: ClusterSite, group: str, resource: str) -> None:
        from kubernetes.client import AdmissionregistrationV1Api, ApiException

        api: Any = AdmissionregistrationV1Api(site.cluster.client)
        rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}
        webhook = {
            "name": "away.example.com",
            "clientConfig": {"url": f"https://127.0.0.1:{free_port()}/"},
            "rules": [rule],
            "namespaceSelector": _namespace_only(site),
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 2,
        }
        api.create_validating_webhook_configuration({"metadata": {"name": site.namespace}, "webhooks": [webhook]})
        try:

            def is_in_force() -> bool:
                try:
                    (_job if resource == "jobs" else _pod)(site, dry_run="All")
                except ApiException as error:
                    return "failed calling webhook" in str(error.body)
                return False

            site.cluster.wait_for(is_in_force)
            with site.worker("--slots", "1"):
                job = site.enqueue(f"{BEGUN}; {DONE}")
                site.await_wait(job, "failed calling webhook")
                api.delete_validating_webhook_configuration(site.namespace)
                site.await_status(job, "completed")
                assert attempts_of(job) == [(1, 0, "")]
                assert site.runs() == ["begin 1", "end 1"]
                site.assert_clean()
        finally:
            with suppress(ApiException):
                api.delete_validating_webhook_configuration(site.namespace)


def test_a_launch_waits_for_a_missing_namespace(site: ClusterSite, way: ApiProxy) -> None:
    missing = f"{site.namespace}-later"
    said = status_body(404, "NotFound", f'namespaces "{missing}" not found', name=missing, kind="namespaces")
    way.answer(_CREATE, 404, said, times=1)
    with site.worker("--slots", "1", kubeconfig=way.kubeconfig):
        job = site.enqueue(f"{BEGUN}; {DONE}")
        site.await_wait(job, "not found")
        site.await_status(job, "completed")
        assert attempts_of(job) == [(1, 0, "")]


class TestSuspended:
    @pytest.mark.shows("explanation/kubernetes.md#suspended-job")
    def test_a_job_waits_for_kueue_without_a_time_limit_and_runs_when_it_is_admitted(self, site: ClusterSite) -> None:
        options = {"kueue_queues": ["team"], "unschedulable_seconds": 10.0, "image_seconds": 10.0}
        with site.worker("--slots", "1", options=options):
            job = site.enqueue(f"{BEGUN}; {DONE}", container={"kueue_queue": "team"}, timeout_seconds=600)
            site.await_wait(job, "Kueue to admit it from its local queue 'team'")
            later = site.enqueue("true", queue="default")
            assert site.job(site.key_of(job)).spec.suspend
            began = time.monotonic()
            # Longer than any of its clocks, which leave a node time to start it once it is admitted.
            eventually(lambda: time.monotonic() - began > 12)
            assert attempts_of(job) == [(1, None, "")]
            name = object_name(site.key_of(job))
            site.cluster.batch.patch_namespaced_job(name, site.namespace, {"spec": {"suspend": False}})
            for each in (job, later):
                site.await_status(each, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_a_job_that_waits_for_kueue_is_cancelled_and_leaves_nothing(self, site: ClusterSite) -> None:
        with site.worker("--slots", "1", options={"kueue_queue": "team"}):
            job = site.enqueue(f"{BEGUN}; {DONE}")
            site.await_wait(job, "Kueue")
            site.cancel(job)
            site.await_status(job, "cancelled")
            site.assert_clean()
        assert site.runs() == []

    def test_a_job_that_waits_for_a_node_may_be_suspended_and_resumed_by_hand(self, site: ClusterSite) -> None:
        """Its first pod has run nothing: another one takes its place, and no attempt is burnt."""
        pools = {"later": {"node_selector": {site.namespace: "yes"}}}
        core, batch = site.cluster.core, site.cluster.batch
        with site.worker("--slots", "1", options={"node_pools": pools}):
            job = site.enqueue(f"{BEGUN}; {DONE}", container={"node_pool": "later"})
            site.await_wait(job, "a node")
            name = object_name(site.key_of(job))
            batch.patch_namespaced_job(name, site.namespace, {"spec": {"suspend": True}})
            site.await_wait(job, "resume its Job, which is suspended")
            core.patch_node("node1", {"metadata": {"labels": {site.namespace: "yes"}}})
            try:
                batch.patch_namespaced_job(name, site.namespace, {"spec": {"suspend": False}})
                site.await_status(job, "completed")
            finally:
                core.patch_node("node1", {"metadata": {"labels": {site.namespace: None}}})
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()

    def test_a_job_that_is_deleted_by_hand_before_it_runs_is_created_again(self, site: ClusterSite) -> None:
        with site.worker("--slots", "1", options={"kueue_queue": "team"}):
            job = site.enqueue(f"{BEGUN}; {DONE}")
            site.await_wait(job, "Kueue")
            name, batch = object_name(site.key_of(job)), site.cluster.batch
            first = site.job(site.key_of(job))
            assert first.metadata.finalizers == [FINALIZER]
            batch.delete_namespaced_job(name, site.namespace, propagation_policy="Foreground")

            def is_another() -> bool:
                found = site.job(site.key_of(job))
                return found is not None and found.metadata.uid != first.metadata.uid

            site.cluster.wait_for(is_another)
            batch.patch_namespaced_job(name, site.namespace, {"spec": {"suspend": False}})
            site.await_status(job, "completed")
            assert attempts_of(job) == [(1, 0, "")]
            assert site.runs() == ["begin 1", "end 1"]
            site.assert_clean()


def _namespace_only(site: ClusterSite) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}}


def _template(site: ClusterSite) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "probe", "image": site.cluster.image, "command": ["true"], "securityContext": security}
    pod = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"restartPolicy": "Never", "securityContext": pod, "containers": [container]}


def _job(site: ClusterSite, **how: Any) -> None:
    body = {"metadata": {"name": "probe"}, "spec": {"template": {"spec": _template(site)}}}
    site.cluster.batch.create_namespaced_job(site.namespace, body, **how)


def _pod(site: ClusterSite, **how: Any) -> None:
    site.cluster.core.create_namespaced_pod(
        site.namespace, {"metadata": {"name": "probe"}, "spec": _template(site)}, **how
    )

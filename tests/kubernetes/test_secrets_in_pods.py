"""Secrets reach the job alone: no other object, log or error has their values, and they go with it."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from container_manager.executors.base import SECRETS_VARIABLE, Executor, Rejected
from container_manager.executors.kubernetes.labels import object_name
from container_manager.models import JobLog
from container_manager.testing.conformance import ended, output, submitted, text

from .api_proxy import ApiProxy, status_body
from .cluster_site import ClusterSite, attempts_of, output_of
from .kubernetes_harness import KubernetesHarness, shipped_rules
from .test_waits import await_words, with_references

VALUE = "correct-horse-battery"


def everything(harness: KubernetesHarness) -> str:
    """Return what the cluster shows of a namespace to whoever may not read its Secrets."""
    core, batch, name = harness.cluster.core, harness.cluster.batch, harness.namespace
    found = [
        *batch.list_namespaced_job(name).items,
        *core.list_namespaced_pod(name).items,
        *core.list_namespaced_event(name).items,
        *core.list_namespaced_config_map(name).items,
    ]
    return json.dumps([harness.cluster.client.sanitize_for_serialization(each) for each in found])


@pytest.mark.without_database
class TestObjects:
    def test_secret_values_are_only_in_the_attempts_own_secret_and_deleted_with_its_job(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        script = f"cat ${SECRETS_VARIABLE}/key; echo $WORD; touch $EFFECTS/ready; sleep 600"
        spec = harness.spec(script, secrets={"WORD": "env:CM_SECRET_WORD"}, environment={"WORD": VALUE})
        spec = replace(spec, secret_files={"key": b"file\n"})
        submitted(executor, spec)
        harness.cluster.wait_for((harness.effects() / "ready").exists)
        shown = everything(harness)
        assert VALUE not in shown
        assert b64encode(VALUE.encode()).decode() not in shown
        [secret] = [
            each
            for each in harness.cluster.core.list_namespaced_secret(harness.namespace).items
            if each.metadata.name == object_name(spec.key)
        ]
        [owner] = secret.metadata.owner_references
        assert owner.uid == harness.job(spec.key).metadata.uid
        assert secret.immutable
        assert {b64encode(VALUE.encode()).decode(), b64encode(b"file\n").decode()} == set(secret.data.values())
        executor.stop(spec.key, 0.0)
        ended(executor, spec.key)
        assert text(output(executor, spec.key)) == f"file\n{VALUE}\n".encode()
        executor.remove(spec.key)
        harness.cluster.wait_for(lambda: not harness.secret_folders(spec.key))

    def test_a_worker_has_no_right_to_read_secrets(self) -> None:
        rights = [rule for rule in shipped_rules() if "secrets" in rule["resources"]]
        assert [rule["verbs"] for rule in rights] == [["create"]]

    def test_secrets_of_the_cluster_reach_the_job_without_passing_the_worker(
        self, harness: KubernetesHarness, executor: Executor
    ) -> None:
        harness.cluster.core.create_namespaced_secret(
            harness.namespace, {"metadata": {"name": "mail"}, "stringData": {"word": VALUE, "key": "in a file"}}
        )
        references = {"secrets": {"WORD": "kubernetes:mail/word"}, "secret_files": {"key": "kubernetes:mail/key"}}
        spec = with_references(harness, references)
        spec = replace(spec, argv=("sh", "-c", f"echo $WORD; cat ${SECRETS_VARIABLE}/key"))
        submitted(executor, spec)
        assert ended(executor, spec.key).succeeded
        assert text(output(executor, spec.key)) == f"{VALUE}\nin a file".encode()
        assert harness.secret_folders(spec.key) == []
        assert VALUE not in everything(harness)

    def test_a_secret_that_was_deleted_before_its_pod_read_it_is_created_again_by_the_adopting_worker(
        self, harness: KubernetesHarness
    ) -> None:
        """As when a worker dies between the Job and its Secret."""
        pools = {"later": {"node_selector": {harness.namespace: "yes"}}}
        executor = harness.executor(node_pools=pools)
        spec = harness.spec(f"cat ${SECRETS_VARIABLE}/key", container={"node_pool": "later"})
        spec = replace(spec, secret_files={"key": b"said\n"})
        await_words(executor, spec, "a node")
        executor.close()
        harness.cluster.core.delete_namespaced_secret(object_name(spec.key), harness.namespace)
        core, heir = harness.cluster.core, harness.executor(node_pools=pools)
        core.patch_node("node1", {"metadata": {"labels": {harness.namespace: "yes"}}})
        try:
            submitted(heir, spec)
            assert ended(heir, spec.key).succeeded
            assert text(output(heir, spec.key)) == b"said\n"
        finally:
            core.patch_node("node1", {"metadata": {"labels": {harness.namespace: None}}})

    @pytest.mark.parametrize(
        "files", [{"..": b"x"}, {"big": b"x" * (1024 * 1024 + 1)}], ids=["dots", "larger than a Secret"]
    )
    def test_values_that_no_secret_can_hold_are_rejected_before_anything_is_created(
        self, harness: KubernetesHarness, executor: Executor, files: dict[str, bytes]
    ) -> None:
        spec = replace(harness.spec("true"), secret_files=files)
        with pytest.raises(Rejected) as caught:
            executor.submit(spec)
        assert caught.value.reason == "start"
        assert harness.job(spec.key) is None


@pytest.mark.django_db(transaction=True)
class TestMessages:
    def test_no_log_and_no_error_shows_a_secret_value_that_the_api_server_quotes(
        self, site: ClusterSite, way: ApiProxy, allowed_secrets: dict[str, Any]
    ) -> None:
        """As an admission webhook may that refuses a Secret or a Job."""
        said = status_body(422, "Invalid", f'Secret "x" is invalid: data: Invalid value: "{VALUE}"')
        way.answer("POST .*/secrets", 422, said, times=1)
        job = site.enqueue("echo said $CM_WORD", secrets={"CM_WORD": "env:CM_SECRET_WORD"})
        variables = {"CM_SECRET_WORD": VALUE}
        with site.worker("--slots", "1", kubeconfig=way.kubeconfig, variables=variables, **allowed_secrets):
            site.await_status(job, "completed", "failed")
            assert attempts_of(job) == [(1, 0, "")]
            assert VALUE.encode() not in output_of(job)
            site.assert_clean()
        assert VALUE not in site.log.read_text()
        rows = JobLog.objects.filter(attempt__job=job).order_by("sequence")
        assert VALUE.encode() not in b"".join(bytes(row.data) for row in rows)
        assert VALUE not in " ".join(map(str, job.attempts.values().get().values()))

    def test_a_job_may_name_only_cluster_secrets_that_the_settings_allow(
        self, site: ClusterSite, settings: Any, allowed_secrets: dict[str, Any]
    ) -> None:
        site.cluster.core.create_namespaced_secret(
            site.namespace, {"metadata": {"name": "other"}, "stringData": {"word": VALUE}}
        )
        with pytest.raises(ValidationError, match="not allowed"):
            site.enqueue("printenv WORD", secrets={"WORD": "kubernetes:other/word"})
        # Where whoever queues it has other settings than the worker.
        settings.CONTAINER_MANAGER = {"SECRETS": {"kubernetes:other/*": ""}}
        job = site.enqueue("printenv WORD", secrets={"WORD": "kubernetes:other/word"})
        with site.worker("--slots", "1", **allowed_secrets):
            site.await_status(job, "failed")
            assert attempts_of(job) == [(1, None, "start")]
            site.assert_clean()

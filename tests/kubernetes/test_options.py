"""The options of a Kubernetes executor: what is wrong is named before a worker starts, with what it should be."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from container_manager.executors.kubernetes.kubernetes_options import KubernetesOptions, kubernetes_options

pytestmark = pytest.mark.without_database


def test_without_options_the_defaults_apply_and_no_image_is_allowed() -> None:
    assert kubernetes_options({}) == KubernetesOptions()
    assert kubernetes_options({}).images == ()


def test_an_unknown_kubernetes_option_is_a_type_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"no option 'pod_spec'; known: kubeconfig, context, namespace"):
        kubernetes_options({"pod_spec": {}})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("kubeconfig", None, "a text"),
        ("namespace", "Jobs", "the name of an object"),
        ("timeout_seconds", 0, "a positive number"),
        ("images", "busybox", "a list of patterns"),
        ("volumes", ["data"], "a dict of names and dicts"),
        ("service_accounts", ["a b"], "a list of names of objects"),
        ("node_pools", {"gpu": {"selector": {}}}, 'names and {"node_selector": labels, "tolerations": list}'),
        ("networks", ["a/b"], "a list of names that can be a label's value"),
        ("extra_hosts", {"db": "host-gateway"}, "names and addresses"),
        ("dns", ["resolver"], "a list of addresses"),
        ("gpus", -1, "a whole number, 0 for none"),
        ("gpus", True, "a whole number, 0 for none"),
        ("gpu_resource", "", "the name of a resource"),
        ("allow_root", 1, "true or false"),
        ("memory_bytes", "1g", "a whole positive number, or None"),
        ("cpu_count", 0, "a positive number, or None"),
        ("request_share", 1.5, "a number above 0, at most 1"),
        ("command_bytes", None, "a whole positive number"),
        ("user", "app", "a user's number"),
        ("tmpfs", {"tmp": 1}, "absolute paths and sizes in bytes"),
        ("labels", {"container-manager/key": "x"}, "labels that are not this executor's own"),
        ("labels", {"kueue.x-k8s.io/queue-name": "x"}, "labels that are not this executor's own"),
        ("labels", {"team": "a b"}, "labels that are not this executor's own"),
        ("tolerations", [{"effekt": "NoSchedule"}], "a list of tolerations"),
        ("pull", "IfNotPresent", "one of missing, always, never"),
        ("pull", ["missing"], "one of missing, always, never"),
        ("image_pull_secrets", "login", "a list of names"),
        ("image_seconds", None, "a positive number"),
        ("unschedulable_seconds", 0, "a positive number, or None"),
        ("ttl_seconds", 1.5, "a whole positive number"),
        ("pod_template", [], "a dict with a pod's 'metadata' and 'spec'"),
    ],
)
def test_a_wrong_value_of_a_kubernetes_option_is_named_with_what_it_should_be(
    option: str, value: Any, expected: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        kubernetes_options({option: value})
    assert f"The option {option!r} must be" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({}, "must be a dict with one of claim, config_map, secret, empty_dir_bytes, host_path"),
        ("data", "must be a dict with one of"),
        ({"claim": "a", "host_path": "/b"}, "must be a dict with one of"),
        ({"claim": "a", "readonly": True}, "must be a dict with one of"),
        ({"claim": "A b"}, "needs as 'claim' the name of an object in the namespace, not 'A b'"),
        ({"host_path": "srv"}, "needs as 'host_path' an absolute path of the node"),
        ({"host_path": "/srv/.."}, "needs as 'host_path' an absolute path of the node"),
        ({"empty_dir_bytes": "1g"}, "needs as 'empty_dir_bytes' its largest size in bytes"),
        ({"claim": "a", "read_only": "no"}, "'read_only' must be true or false"),
        ({"claim": "a", "sub_path": "../b"}, "'sub_path' must be a relative path without '..'"),
        ({"claim": "a", "sub_path": 7}, "'sub_path' must be a relative path without '..'"),
    ],
)
def test_a_wrong_volume_is_named_with_what_it_should_be(volume: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="The volume 'data'") as caught:
        kubernetes_options({"volumes": {"data": volume}})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "volume",
    [
        {"claim": "reports", "read_only": False, "sub_path": "2026/11"},
        {"config_map": "settings"},
        {"secret": "certificates"},
        {"empty_dir_bytes": 2**30},
        {"host_path": "/srv/data"},
    ],
)
def test_each_kind_of_volume_is_accepted(volume: dict[str, Any]) -> None:
    assert kubernetes_options({"volumes": {"data": volume}}).volumes["data"] == volume


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"status": {}}, "has 'status'; it takes 'metadata' and 'spec'"),
        ({"metadata": {"name": "x"}}, "has 'metadata' 'name'; it takes 'labels' and 'annotations'"),
        ({"metadata": {"labels": {"container-manager/install": "x"}}}, "sets 'container-manager/install', which this"),
        ({"metadata": {"labels": {"job-name": "x"}}}, "sets 'job-name', which this"),
        ({"metadata": {"annotations": {"batch.kubernetes.io/job-name": "x"}}}, "which this executor sets itself"),
        ({"spec": {"restartPolicy": "OnFailure"}}, "sets 'spec' 'restartPolicy', which this executor sets itself"),
        ({"spec": {"containers": {"job": {}}}}, "must have as 'containers' a list of dicts, each with a 'name'"),
        ({"spec": {"containers": [{"image": "x"}]}}, "must have as 'containers' a list of dicts, each with a 'name'"),
        ({"spec": {"containers": [{"name": "job", "image": "x"}]}}, "sets 'image' of the job's container"),
    ],
)
def test_a_pod_template_cannot_set_what_the_executor_or_a_job_sets(template: Any, said: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        kubernetes_options({"pod_template": template})
    assert said in str(caught.value)


@pytest.mark.parametrize("options", [{"user": "0"}, {"user": "0:0"}, {"default_user": "00:5"}])
def test_root_must_be_allowed_by_an_option_of_its_own(options: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match="names root: take another, or set 'allow_root'"):
        kubernetes_options(options)
    assert kubernetes_options({**options, "allow_root": True}).allow_root


def test_all_wrong_kubernetes_options_are_reported_at_once() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'pull'.*'gpus'"):
        kubernetes_options({"pull": "often", "gpus": "all"})

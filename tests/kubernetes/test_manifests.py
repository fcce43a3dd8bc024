"""What a job may request of a cluster, what its objects are, and what is rejected before anything is sent."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from container_manager.executors.base import LaunchSpec, Rejected
from container_manager.executors.kubernetes.job_manifests import RESULT_PATH, SECRETS_FOLDER, job_manifest
from container_manager.executors.kubernetes.kubernetes_options import kubernetes_options
from container_manager.executors.kubernetes.labels import is_of, key_of, label_value, object_name
from container_manager.executors.kubernetes.secret_manifests import secret_manifest
from container_manager.jobs.container_request import container_request
from container_manager.testing.conformance import job_fields

pytestmark = pytest.mark.without_database

KEY = "cm-shop-0123456789abcdef0123456789abcdef-1"
OPTIONS: dict[str, Any] = {
    "images": ["busybox", "team.example.com:5000/tools/*:1.*"],
    "volumes": {
        "data": {"claim": "data"},
        "cache": {"claim": "cache", "read_only": False, "sub_path": "a/b"},
        "settings": {"config_map": "settings"},
        "certificates": {"secret": "certificates"},
        "scratch": {"empty_dir_bytes": 2**20},
        "node": {"host_path": "/srv/data"},
    },
    "service_accounts": ["uploader"],
    "priority_classes": ["urgent"],
    "kueue_queues": ["team-a"],
    "kueue_priority_classes": ["soon"],
    "node_pools": {
        "gpu": {"node_selector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    },
    "networks": ["internet"],
    "platforms": ["linux/arm64"],
    "extra_hosts": {"db": "192.0.2.7"},
    "dns": ["192.0.2.53"],
    "gpus": 2,
    "memory_bytes": 2**30,
    "cpu_count": 2,
    "storage_bytes": 2**30,
    "shm_bytes": 2**26,
}
MEMORY, SHARED = "/memory", "/dev/shm"  # noqa: S108  # in the pod
OWNER = {"name": KEY, "uid": "b2f1"}


def launch(asked: dict[str, Any] | None = None, **fields: Any) -> LaunchSpec:
    job, rest = job_fields({"image": "busybox", **fields})
    return LaunchSpec(**{"key": KEY, "argv": ("true",), **rest}, job=job, container=container_request(asked or {}))


def manifest(asked: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **fields: Any) -> Any:
    return job_manifest(launch(asked, **fields), kubernetes_options({**OPTIONS, **(options or {})}), install="shop")


def pod(asked: dict[str, Any] | None = None, **rest: Any) -> Any:
    return manifest(asked, **rest)["spec"]["template"]["spec"]


def container(asked: dict[str, Any] | None = None, **rest: Any) -> Any:
    [found] = pod(asked, **rest)["containers"]
    return found


@pytest.mark.parametrize(
    ("asked", "fields", "reason", "said"),
    [
        ({}, {"image": ""}, "image", "names no image"),
        ({}, {"image": "alpine"}, "image", "image 'alpine' is not allowed. .* 'images': busybox, "),
        ({}, {"argv": ("x" * 40_000,)}, "start", "command has 40000 bytes; .* 'command_bytes' allows 32768"),
        ({}, {"working_directory": "srv"}, "start", "'srv' is no absolute path"),
        ({"pids": 5}, {}, "start", "pod cannot have what the job asks for: pids.*'ignore_missing_limits'"),
        ({"ulimits": {"nofile": 5}}, {}, "start", "pod cannot have what the job asks for: ulimits"),
        ({"user": "app"}, {}, "start", "user 'app'. A pod takes numbers only"),
        ({"user": "1000:staff"}, {}, "start", "user '1000:staff'. A pod takes numbers only"),
        ({"user": "0"}, {}, "start", "asks to run as root.*'allow_root'"),
        ({"gpus": 3}, {}, "start", "asks for 3 GPUs; .* 'gpus' allows 2"),
        ({"gpus": -1}, {}, "start", "asks for all GPUs, which no cluster gives"),
        ({"network": "backend"}, {}, "start", "network 'backend'. .* 'networks': internet"),
        ({"volumes": {"root": "/host"}}, {}, "start", "no volume 'root'.*data, cache"),
        ({"volumes": {"data": "/a", "cache": "/a/"}}, {}, "start", "two volumes at '/a'"),
        ({"service_account": "admin"}, {}, "start", "service account 'admin'. .* 'service_accounts': uploader"),
        ({"node_pool": "big"}, {}, "start", "node pool 'big'. .* 'node_pools': gpu"),
        ({"priority_class": "system"}, {}, "start", "priority class 'system'. .* 'priority_classes': urgent"),
        ({"kueue_queue": "team-b"}, {}, "start", "Kueue queue 'team-b'. .* 'kueue_queues': team-a"),
        (
            {"kueue_queue": "team-a", "kueue_priority_class": "now"},
            {},
            "start",
            "Kueue priority class 'now'. .* 'kueue_priority_classes': soon",
        ),
        ({"kueue_priority_class": "soon"}, {}, "start", "for no queue of it: name one"),
        ({"platform": "linux/s390x"}, {}, "start", "platform 'linux/s390x'. .* 'platforms': linux/arm64"),
        ({"extra_hosts": ["mail"]}, {}, "start", "host 'mail'. .* 'extra_hosts': db"),
        ({"dns": ["198.51.100.1"]}, {}, "start", "DNS server '198.51.100.1'. .* 'dns': 192.0.2.53"),
        ({}, {"memory_bytes": 2**30 + 1}, "start", "memory_bytes=1073741825; .* allows 1073741824"),
        ({}, {"cpu_count": 2.5}, "start", "cpu_count=2.5; .* allows 2"),
        ({"storage_bytes": 2**31}, {}, "start", "storage_bytes=2147483648; .* allows 1073741824"),
        ({"shm_bytes": 2**27}, {}, "start", "shm_bytes=134217728; .* allows 67108864"),
        ({}, {"environment": {"A": "x" * 120_000, "B": "$" * 500_000}}, "start", "cluster takes about 1048576"),
    ],
)
def test_a_container_request_that_the_options_forbid_or_no_cluster_supports_is_rejected(
    asked: dict[str, Any], fields: dict[str, Any], reason: str, said: str
) -> None:
    with pytest.raises(Rejected, match=said) as caught:
        manifest(asked, **fields)
    assert caught.value.reason == reason


def test_a_job_is_one_pod_that_is_never_started_again() -> None:
    found = manifest()
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "Job")
    assert {name: found["spec"][name] for name in ("backoffLimit", "completions", "parallelism")} == {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
    }
    assert found["spec"]["podReplacementPolicy"] == "Failed"
    assert found["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert found["metadata"]["finalizers"] == ["container-manager/stored"]
    assert found["spec"]["ttlSecondsAfterFinished"] == 7 * 24 * 3600
    assert "suspend" not in found["spec"]


def test_the_pod_keeps_the_restricted_standard() -> None:
    spec, job = pod(), container()
    assert spec["securityContext"] | {"fsGroupChangePolicy": ""} == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "runAsGroup": 65534,
        "fsGroup": 65534,
        "fsGroupChangePolicy": "",
    }
    assert job["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert "serviceAccountName" not in spec


def test_the_name_and_the_labels_of_a_job_identify_its_attempt() -> None:
    found = manifest()
    for metadata in (found["metadata"], found["spec"]["template"]["metadata"]):
        assert metadata["labels"]["container-manager/install"] == "shop"
        assert metadata["labels"]["container-manager/key"] == KEY
        assert key_of(metadata) == KEY
        assert is_of(metadata, "shop")
        assert not is_of(metadata, "shop-2")
    assert found["metadata"]["name"] == KEY


@pytest.mark.parametrize(
    "install", ["shop", "Shop", "-shop-", "s" * 200, "demo-01234567", "a-very-long-name-of-an-installation"]
)
def test_each_key_gives_a_valid_name_and_a_valid_label(install: str) -> None:
    names = set()
    for attempt in (1, 12, 123_456):
        key = f"cm-{install}-0123456789abcdef0123456789abcdef-{attempt}"
        name, value = object_name(key), label_value(key)
        names.add(name)
        assert len(name) <= 63
        assert name.replace("-", "").isalnum()
        assert name == name.lower()
        assert name[0].isalpha()
        assert name.endswith(f"-{attempt}")
        assert len(value) <= 63
    assert len(names) == 3


def test_two_installations_whose_names_differ_in_capitals_have_jobs_of_different_names() -> None:
    assert object_name(KEY) != object_name(KEY.replace("shop", "Shop"))


def test_a_job_s_own_labels_are_prefixed_and_those_that_no_cluster_takes_are_in_an_annotation() -> None:
    labels = {"team": "web", "container-manager/key": "other", "note": "a b", "long": "x" * 64}
    metadata = manifest(labels=labels)["metadata"]
    assert metadata["labels"] == {
        "job.container-manager/team": "web",
        "container-manager/install": "shop",
        "container-manager/key": KEY,
    }
    assert json.loads(metadata["annotations"]["container-manager/labels"]) == labels


def test_the_cluster_expands_nothing_in_arguments_and_variables() -> None:
    found = container({"entrypoint": "sh -c"}, argv=("echo $(HOME) $HOME $$",), environment={"PRICE": "$(PATH) 5$"})
    assert found["command"] == ["sh", "-c"]
    # A cluster makes one dollar sign of two, and expands $(NAME).
    assert found["args"] == ["echo $$(HOME) $$HOME $$$$"]
    assert {"name": "PRICE", "value": "$$(PATH) 5$$"} in found["env"]


def test_an_image_keeps_its_own_entrypoint_and_command() -> None:
    found = container(argv=())
    assert "command" not in found
    assert "args" not in found


def test_resource_requests_equal_the_limits_unless_the_options_say_otherwise() -> None:
    asked: dict[str, Any] = {"memory_bytes": 2**20, "cpu_count": 0.5}
    limits = {"memory": str(2**20), "cpu": "500m", "ephemeral-storage": str(2**30)}
    assert container(**asked)["resources"] == {"limits": limits, "requests": limits}
    shared = container(**asked, options={"request_share": 0.25})["resources"]
    assert shared["limits"] == limits
    assert shared["requests"] == {**limits, "memory": str(2**18), "cpu": "125m"}


def test_a_job_without_limits_has_no_resources_in_its_manifest() -> None:
    none = {"memory_bytes": None, "cpu_count": None, "storage_bytes": None}
    assert container(options=none)["resources"] == {}


def test_gpus_are_requested_as_the_resource_that_the_options_name() -> None:
    found = container({"gpus": 2}, options={"gpu_resource": "amd.com/gpu"})["resources"]
    assert (found["limits"]["amd.com/gpu"], found["requests"]["amd.com/gpu"]) == ("2", "2")


def test_volumes_are_those_that_the_options_name() -> None:
    paths = {name: f"/{name}" for name in OPTIONS["volumes"]}
    spec = pod({"volumes": paths})
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounted = {
        mount["mountPath"]: ({k: v for k, v in volumes[mount["name"]].items() if k != "name"}, mount)
        for mount in spec["containers"][0]["volumeMounts"]
        if mount["mountPath"] != SHARED
    }
    assert {path: volume for path, (volume, _) in mounted.items()} == {
        "/data": {"persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
        "/cache": {"persistentVolumeClaim": {"claimName": "cache", "readOnly": False}},
        "/settings": {"configMap": {"name": "settings"}},
        "/certificates": {"secret": {"secretName": "certificates"}},
        "/scratch": {"emptyDir": {"sizeLimit": str(2**20)}},
        "/node": {"hostPath": {"path": "/srv/data"}},
    }
    assert {path: mount["readOnly"] for path, (_, mount) in mounted.items()} == {
        "/data": True,
        "/cache": False,
        "/settings": True,
        "/certificates": True,
        "/scratch": False,
        "/node": True,
    }
    assert mounted["/cache"][1]["subPath"] == "a/b"


def test_files_in_memory_are_volumes_in_memory() -> None:
    spec = pod({"tmpfs": {MEMORY: 2**20}, "shm_bytes": 2**25}, options={"tmpfs": {"/run": 2**10}})
    sizes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    assert {mount["mountPath"]: sizes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]} == {
        path: {"medium": "Memory", "sizeLimit": str(size)}
        for path, size in {"/run": 2**10, MEMORY: 2**20, SHARED: 2**25}.items()
    }


def test_a_jobs_cluster_requests_are_in_its_manifest() -> None:
    asked = {"service_account": "uploader", "node_pool": "gpu", "priority_class": "urgent", "platform": "linux/arm64"}
    spec = pod({**asked, "extra_hosts": ["db"], "dns": ["192.0.2.53"], "user": "1000:2000", "read_only": True})
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("uploader", True)
    assert spec["nodeSelector"] == {"pool": "gpu", "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["priorityClassName"] == "urgent"
    assert spec["hostAliases"] == [{"ip": "192.0.2.7", "hostnames": ["db"]}]
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == ("None", {"nameservers": ["192.0.2.53"]})
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (1000, 2000)
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_options_defaults_hold_for_a_job_that_asks_for_nothing() -> None:
    options = {
        "service_account": "runner",
        "priority_class": "batch",
        "node_selector": {"pool": "jobs"},
        "tolerations": [{"key": "jobs", "operator": "Exists"}],
        "runtime_class": "gvisor",
        "image_pull_secrets": ["login"],
        "network": "inside",
        "labels": {"team": "web"},
    }
    found = manifest(options=options)
    spec = found["spec"]["template"]["spec"]
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("runner", "batch")
    assert (spec["nodeSelector"], spec["tolerations"]) == (options["node_selector"], options["tolerations"])
    assert (spec["runtimeClassName"], spec["imagePullSecrets"]) == ("gvisor", [{"name": "login"}])
    assert found["spec"]["template"]["metadata"]["labels"]["container-manager/network"] == "inside"
    assert found["metadata"]["labels"]["team"] == "web"


def test_a_job_for_kueue_is_suspended_until_its_queue_lets_it_begin() -> None:
    found = manifest({"kueue_queue": "team-a", "kueue_priority_class": "soon"})
    assert found["spec"]["suspend"] is True
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert found["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "soon"


def test_the_kubelet_s_own_deadline_is_well_behind_the_job_s_timeout() -> None:
    assert "activeDeadlineSeconds" not in pod()
    assert pod(timeout_seconds=60, grace_seconds=5)["activeDeadlineSeconds"] == 60 + 5 + 300 + 3600
    assert pod(grace_seconds=5)["terminationGracePeriodSeconds"] == 5


def test_a_result_is_the_container_s_termination_message() -> None:
    found = container()
    assert found["terminationMessagePath"] == RESULT_PATH
    assert {"name": "CONTAINER_MANAGER_RESULT", "value": RESULT_PATH} in found["env"]
    assert {"name": "CONTAINER_MANAGER_RESULT_BYTES", "value": "4095"} in found["env"]
    none = container(options={"results": False})
    assert "terminationMessagePath" not in none
    assert none["env"] == []


def test_a_required_proven_stop_is_an_annotation_for_the_worker_that_adopts_the_job() -> None:
    asked = manifest({"retry_after_proven_stop": True})["metadata"]["annotations"]
    assert asked["container-manager/retry-after-proven-stop"] == "true"
    assert "container-manager/retry-after-proven-stop" not in manifest()["metadata"]["annotations"]


def test_the_limits_that_no_pod_has_are_ignored_where_the_options_say_so() -> None:
    assert manifest({"pids": 5, "ulimits": {"nofile": 5}}, options={"ignore_missing_limits": True})


def with_secrets() -> LaunchSpec:
    job, _ = job_fields({"image": "busybox"})
    job = job._replace(
        secrets={"TOKEN": "env:CM_SECRET_TOKEN", "MAIL": "kubernetes:mail/password"},
        secret_files={"key.pem": "file:key", "ca.pem": "kubernetes:authority/ca.crt"},
    )
    return LaunchSpec(
        key=KEY,
        argv=("true",),
        job=job,
        environment={"PLAIN": "x", "TOKEN": "hunter2"},
        secret_files={"key.pem": b"\0key"},
    )


def test_no_secret_s_value_is_in_the_job() -> None:
    found = job_manifest(with_secrets(), kubernetes_options(OPTIONS), install="shop")
    text = json.dumps(found)
    assert "hunter2" not in text
    variables = {each["name"]: each for each in found["spec"]["template"]["spec"]["containers"][0]["env"]}
    own = {"name": KEY, "key": "variable-0"}
    assert variables["TOKEN"] == {"name": "TOKEN", "valueFrom": {"secretKeyRef": own}}
    cluster_s = {"name": "mail", "key": "password"}
    assert variables["MAIL"] == {"name": "MAIL", "valueFrom": {"secretKeyRef": cluster_s}}
    assert variables["PLAIN"] == {"name": "PLAIN", "value": "x"}
    assert variables["CONTAINER_MANAGER_SECRETS"]["value"] == SECRETS_FOLDER


def test_secret_files_are_one_folder_of_the_attempt_s_and_the_cluster_s_own_secrets() -> None:
    spec = job_manifest(with_secrets(), kubernetes_options(OPTIONS), install="shop")["spec"]["template"]["spec"]
    [volume] = [each for each in spec["volumes"] if "projected" in each]
    assert volume["projected"]["sources"] == [
        {"secret": {"name": KEY, "items": [{"key": "file-0", "path": "key.pem"}]}},
        {"secret": {"name": "authority", "items": [{"key": "ca.crt", "path": "ca.pem"}]}},
    ]
    [mount] = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == (SECRETS_FOLDER, True)


def test_the_secret_has_the_values_and_is_owned_by_its_job() -> None:
    found = secret_manifest(with_secrets(), install="shop", owner=OWNER)
    assert found is not None
    assert {name: b64decode(value) for name, value in found["data"].items()} == {
        "variable-0": b"hunter2",
        "file-0": b"\0key",
    }
    assert found["immutable"] is True
    assert found["metadata"]["name"] == KEY
    assert found["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": KEY, "uid": "b2f1"}
    ]


def test_a_job_without_secrets_of_the_worker_has_no_secret_object() -> None:
    assert secret_manifest(launch(), install="shop", owner=OWNER) is None
    job = with_secrets().job._replace(secrets={"MAIL": "kubernetes:mail/password"}, secret_files={})
    spec = LaunchSpec(key=KEY, argv=("true",), job=job)
    assert secret_manifest(spec, install="shop", owner=OWNER) is None


def test_secrets_that_are_too_large_for_a_secret_are_rejected_before_anything_is_created() -> None:
    job = with_secrets().job._replace(secrets={})
    spec = LaunchSpec(key=KEY, argv=("true",), job=job, secret_files={"key.pem": b"x" * (2**20 + 1)})
    with pytest.raises(Rejected, match="secrets have 1048577 bytes together; a Secret takes 1048576"):
        job_manifest(spec, kubernetes_options(OPTIONS), install="shop")


def test_a_secret_file_whose_name_no_volume_takes_is_rejected() -> None:
    spec = LaunchSpec(key=KEY, argv=("true",), job=launch().job, secret_files={"..data": b"x"})
    with pytest.raises(Rejected, match=r"secret file '\.\.data' cannot have a name that begins with two dots"):
        job_manifest(spec, kubernetes_options(OPTIONS), install="shop")


def test_the_pod_template_is_merged_last_and_by_names() -> None:
    template = {
        "metadata": {"labels": {"sidecar": "no"}, "annotations": {"a.example.com/b": "c"}},
        "spec": {
            "schedulerName": "mine",
            "securityContext": {"runAsUser": 7},
            "containers": [
                {
                    "name": "job",
                    "env": [{"name": "ZONE", "value": "a"}],
                    "securityContext": {"readOnlyRootFilesystem": True},
                },
                {"name": "proxy", "image": "proxy"},
            ],
        },
    }
    found = manifest(options={"pod_template": template}, environment={"A": "b"})["spec"]["template"]
    assert found["metadata"]["labels"]["sidecar"] == "no"
    assert found["metadata"]["annotations"]["a.example.com/b"] == "c"
    assert found["metadata"]["labels"]["container-manager/key"] == KEY
    assert found["spec"]["schedulerName"] == "mine"
    assert found["spec"]["securityContext"]["runAsUser"] == 7
    assert found["spec"]["securityContext"]["runAsNonRoot"] is True
    ours, other = found["spec"]["containers"]
    assert {"name": "A", "value": "b"} in ours["env"]
    assert {"name": "ZONE", "value": "a"} in ours["env"]
    assert ours["securityContext"]["readOnlyRootFilesystem"] is True
    assert ours["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert other == {"name": "proxy", "image": "proxy"}


def test_a_job_s_request_never_changes_the_options() -> None:
    options = kubernetes_options({**OPTIONS, "node_selector": {"pool": "jobs"}, "pod_template": {"spec": {"x": []}}})
    before = repr(options)
    job_manifest(launch({"node_pool": "gpu", "tmpfs": {MEMORY: 1}}), options, install="shop")
    assert repr(options) == before

"""Manifests of attempts on a real cluster, without an executor: the API server takes them, and pods have what they say."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from container_manager.executors.base import LaunchSpec
from container_manager.executors.kubernetes.job_manifests import RESULT_PATH, SECRETS_FOLDER, job_manifest
from container_manager.executors.kubernetes.kubernetes_options import kubernetes_options
from container_manager.executors.kubernetes.labels import FINALIZER, KEY_LABEL, label_value, object_name
from container_manager.executors.kubernetes.secret_manifests import secret_manifest
from container_manager.jobs.container_request import container_request
from container_manager.jobs.spec import JobSpec

from .cluster_under_test import ClusterUnderTest

pytestmark = pytest.mark.without_database

OPTIONS: dict[str, Any] = {
    "images": ["*"],
    "volumes": {
        "claim": {"claim": "data", "read_only": False, "sub_path": "a"},
        "settings": {"config_map": "settings"},
        "certificates": {"secret": "certificates"},
        "scratch": {"empty_dir_bytes": 2**20},
    },
    "service_accounts": ["uploader"],
    "priority_classes": ["urgent"],
    "kueue_queues": ["team-a"],
    "kueue_priority_classes": ["soon"],
    "node_pools": {"gpu": {"node_selector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
    "networks": ["internet"],
    "platforms": ["linux/arm64"],
    "extra_hosts": {"db": "192.0.2.7"},
    "dns": ["192.0.2.53"],
    "gpus": 2,
    "memory_bytes": 2**28,
    "cpu_count": 1,
    "storage_bytes": 2**28,
    "shm_bytes": 2**20,
}
_MEMORY = "/memory"


def launch(cluster: ClusterUnderTest, *argv: str, asked: dict[str, Any] | None = None, **fields: Any) -> LaunchSpec:
    given = set(JobSpec._fields) - {"environment", "secret_files"}
    job_fields = {name: fields.pop(name) for name in given & set(fields)}
    return LaunchSpec(
        **{"key": f"cm-test-{uuid.uuid4().hex}-1", **fields},
        argv=argv,
        job=JobSpec(image=cluster.image, **job_fields),
        container=container_request(asked or {}),
    )


def create(
    cluster: ClusterUnderTest, namespace: str, spec: LaunchSpec, *, options: dict[str, Any] | None = None, **how: Any
) -> Any:
    """Create an attempt's Job, with unknown fields as errors."""
    manifest = job_manifest(spec, kubernetes_options({**OPTIONS, **(options or {})}), install="test")
    return cluster.batch.create_namespaced_job(namespace, manifest, field_validation="Strict", **how)


def run(cluster: ClusterUnderTest, namespace: str, spec: LaunchSpec, **options: Any) -> tuple[int, str, str]:
    """Run an attempt to its end; return its exit code, its output, and its termination message."""
    job = create(cluster, namespace, spec, options=options)
    assert job.metadata.finalizers == [FINALIZER]
    owner = {"name": job.metadata.name, "uid": job.metadata.uid}
    if secret := secret_manifest(spec, install="test", owner=owner):
        cluster.core.create_namespaced_secret(namespace, secret, field_validation="Strict")
    selector = f"{KEY_LABEL}={label_value(spec.key)}"

    def ended() -> Any:
        for pod in cluster.core.list_namespaced_pod(namespace, label_selector=selector).items:
            for status in pod.status.container_statuses or ():
                if status.state.terminated is not None:
                    return pod, status.state.terminated
        return None

    pod, state = cluster.wait_for(ended)
    return state.exit_code, cluster.core.read_namespaced_pod_log(pod.metadata.name, namespace), state.message or ""


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"user": "1000:2000", "read_only": True, "tmpfs": {_MEMORY: 2**20}, "shm_bytes": 2**19},
        {"volumes": {name: f"/mnt/{name}" for name in OPTIONS["volumes"]}},
        {"service_account": "uploader", "node_pool": "gpu", "platform": "linux/arm64", "gpus": 1},
        {"kueue_queue": "team-a", "kueue_priority_class": "soon", "retry_after_proven_stop": True},
        {"network": "internet", "extra_hosts": ["db"], "dns": ["192.0.2.53"], "storage_bytes": 2**20},
        {"entrypoint": "sh -c"},
    ],
    ids=lambda asked: "-".join(asked) or "nothing",
)
def test_the_api_server_takes_each_request(cluster: ClusterUnderTest, namespace: str, asked: dict[str, Any]) -> None:
    spec = launch(
        cluster,
        "true",
        asked=asked,
        timeout_seconds=60,
        labels={"team": "web", "note": "a b"},
        secrets={"TOKEN": "env:CM_SECRET_TOKEN", "MAIL": "kubernetes:mail/password"},
        environment={"TOKEN": "hunter2", "A": "b"},
        secret_files={"key.pem": b"key"},
    )
    create(cluster, namespace, spec, dry_run="All")


@pytest.mark.parametrize("install", ["Shop", "-shop-", "s" * 100, "i" * 22])
def test_the_api_server_accepts_the_names_of_each_installation(
    cluster: ClusterUnderTest, namespace: str, install: str
) -> None:
    key = f"cm-{install}-{uuid.uuid4().hex}-123456"
    spec = launch(cluster, "hostname", key=key)
    code, output, _ = run(cluster, namespace, spec)
    # A pod's host name is its own name, which begins with the Job's, as far as there is room for its suffix.
    assert (code, output[:30]) == (0, object_name(key)[:30])


def test_a_program_gets_its_arguments_and_variables_unchanged(cluster: ClusterUnderTest, namespace: str) -> None:
    words = ["$(HOME)", "$HOME", "$$", "$$(HOME)", "a b", '"', "'", "\\", "é", "$"]
    spec = launch(
        cluster,
        *words,
        asked={"entrypoint": """sh -c 'for w; do echo "[$w]"; done; echo "[$PRICE]"' name"""},
        environment={"PRICE": "$(HOME) $$ 5$", "HOME": "/x"},
    )
    _, output, _ = run(cluster, namespace, spec)
    assert output.splitlines() == [f"[{word}]" for word in [*words, "$(HOME) $$ 5$"]]


def test_a_program_gets_its_secrets_and_no_other_object_has_their_values(
    cluster: ClusterUnderTest, namespace: str
) -> None:
    cluster.core.create_namespaced_secret(namespace, {"metadata": {"name": "mail"}, "stringData": {"pass": "word"}})
    script = (
        f"echo $TOKEN $MAIL; test $CONTAINER_MANAGER_SECRETS = {SECRETS_FOLDER}; cd $CONTAINER_MANAGER_SECRETS; "
        "cat key.pem mail.txt; echo; ls; touch new 2>&1"
    )
    job = JobSpec(
        image=cluster.image,
        secrets={"TOKEN": "env:CM_SECRET_TOKEN", "MAIL": "kubernetes:mail/pass"},
        secret_files={"key.pem": "file:key", "mail.txt": "kubernetes:mail/pass"},
    )
    spec = LaunchSpec(
        key=f"cm-test-{uuid.uuid4().hex}-1",
        argv=("sh", "-c", script),
        job=job,
        environment={"TOKEN": "hunter2"},
        secret_files={"key.pem": b"key\n"},
    )
    _, output, _ = run(cluster, namespace, spec)
    assert output == "hunter2 word\nkey\nword\nkey.pem\nmail.txt\ntouch: new: Read-only file system\n"
    stored = cluster.batch.read_namespaced_job(object_name(spec.key), namespace)
    assert "hunter2" not in json.dumps(stored.to_dict(), default=str)


def test_the_cluster_deletes_the_secret_with_its_job(cluster: ClusterUnderTest, namespace: str) -> None:
    spec = launch(cluster, "true", secret_files={"key.pem": b"key"})
    run(cluster, namespace, spec)
    name = object_name(spec.key)
    assert [each.metadata.name for each in cluster.core.list_namespaced_secret(namespace).items] == [name]
    cluster.batch.patch_namespaced_job(name, namespace, {"metadata": {"finalizers": None}})
    cluster.batch.delete_namespaced_job(name, namespace, propagation_policy="Foreground")
    cluster.wait_for(lambda: not cluster.core.list_namespaced_secret(namespace).items)


@pytest.mark.parametrize("read_only", [False, True])
def test_any_user_can_write_a_result_also_where_files_are_read_only(
    cluster: ClusterUnderTest, namespace: str, read_only: bool
) -> None:
    asked = {"user": "1000:2000", "read_only": read_only}
    spec = launch(cluster, "sh", "-c", 'echo "{}" > $CONTAINER_MANAGER_RESULT; id -u; id -g', asked=asked)
    code, output, message = run(cluster, namespace, spec)
    assert (code, output, message) == (0, "1000\n2000\n", "{}\n")


def test_a_job_s_files_in_memory_have_the_size_that_it_asks_for(cluster: ClusterUnderTest, namespace: str) -> None:
    script = f"for p in {_MEMORY} /dev/shm; do df -k $p | tail -1; done; echo x > {_MEMORY}/a && echo written"
    spec = launch(cluster, "sh", "-c", script, asked={"tmpfs": {_MEMORY: 2**20}, "read_only": True})
    _, output, _ = run(cluster, namespace, spec)
    memory, shared, written = output.splitlines()
    assert (memory.split()[1], memory.split()[-1]) == ("1024", _MEMORY)
    assert (shared.split()[1], shared.split()[-1]) == ("1024", "/dev/shm")  # noqa: S108  # in the pod
    assert written == "written"


def test_a_job_has_no_token_and_no_variables_of_other_services_than_the_api(
    cluster: ClusterUnderTest, namespace: str
) -> None:
    service = {"metadata": {"name": "billing"}, "spec": {"ports": [{"port": 80}]}}
    cluster.core.create_namespaced_service(namespace, service)
    script = "ls /var/run/secrets/kubernetes.io 2>/dev/null; env | grep -c BILLING; grep NoNewPrivs /proc/self/status"
    _, output, _ = run(cluster, namespace, launch(cluster, "sh", "-c", script))
    assert output.split() == ["0", "NoNewPrivs:", "1"]


def test_the_result_file_is_where_its_variable_says(cluster: ClusterUnderTest, namespace: str) -> None:
    _, output, message = run(cluster, namespace, launch(cluster, "sh", "-c", "echo $CONTAINER_MANAGER_RESULT"))
    assert (output.strip(), message) == (RESULT_PATH, "")

"""The cluster of the tests is a real one, and its parts can be ended and started again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from .api_proxy import ApiProxy
from .cluster_under_test import ClusterUnderTest
from .control import ClusterControl, api_client
from .control_plane import NODES
from .pods import container_state, pod, run_pod

pytestmark = pytest.mark.without_database


def running(cluster: ClusterUnderTest, namespace: str, name: str) -> bool:
    return getattr(container_state(cluster, namespace, name), "running", None) is not None


def waiting_reason(cluster: ClusterUnderTest, namespace: str, name: str) -> str:
    waiting = getattr(container_state(cluster, namespace, name), "waiting", None)
    return "" if waiting is None else waiting.reason


def start_pod(cluster: ClusterUnderTest, namespace: str, described: dict[str, Any]) -> str:
    cluster.core.create_namespaced_pod(namespace, described)
    name: str = described["metadata"]["name"]
    cluster.wait_for(lambda: running(cluster, namespace, name))
    return name


def test_the_test_cluster_runs_a_pod_to_its_exit_code_and_keeps_its_log(
    cluster: ClusterUnderTest, namespace: str
) -> None:
    assert run_pod(cluster, namespace, pod(cluster, "one", "echo said; exit 7")).exit_code == 7
    assert cluster.core.read_namespaced_pod_log("one", namespace) == "said\n"


@pytest.mark.parametrize("node", NODES)
def test_a_pod_runs_on_the_node_that_it_names(cluster: ClusterUnderTest, namespace: str, node: str) -> None:
    if not cluster.has_nodes_in_hand:
        pytest.skip("Missing: A cluster whose nodes the tests have in hand (python -m tests.kubernetes starts one)")
    assert run_pod(cluster, namespace, pod(cluster, "one", "echo $((6 * 7)); exit 3", node=node)).exit_code == 3
    assert cluster.core.read_namespaced_pod("one", namespace).spec.node_name == node
    assert cluster.core.read_namespaced_pod_log("one", namespace) == "42\n"


def test_a_namespace_refuses_pods_that_are_not_restricted(cluster: ClusterUnderTest, namespace: str) -> None:
    described = pod(cluster, "one", "true")
    del described["spec"]["securityContext"]
    with pytest.raises(ApiException, match="violates PodSecurity") as refused:
        cluster.core.create_namespaced_pod(namespace, described)
    assert refused.value.status == 403


def test_a_service_account_has_the_rights_of_its_role(cluster: ClusterUnderTest, namespace: str, tmp_path: Any) -> None:
    path = tmp_path / "worker.kubeconfig"
    path.write_text(cluster.kubeconfig_of(namespace, [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]))
    core = client.CoreV1Api(api_client(path))
    # Where the authorizer has not yet seen the new role it refuses.
    cluster.wait_for(lambda: _allowed(lambda: core.list_namespaced_pod(namespace)))
    assert not _allowed(lambda: core.list_namespaced_secret(namespace))


def _allowed(ask: Any) -> bool:
    try:
        ask()
    except ApiException as error:
        if error.status != 403:
            raise
        return False
    return True


def test_the_test_cluster_pulls_images_from_the_registries(cluster: ClusterUnderTest, namespace: str) -> None:
    if cluster.control is None:
        pytest.skip("Missing: A cluster whose nodes the tests have in hand (python -m tests.kubernetes starts one)")
    registries = cluster.control.registries
    open_one, private = f"{registries.address}/team/job:1", f"{registries.private_address}/team/job:1"
    assert run_pod(cluster, namespace, pod(cluster, "open", "exit 4", image=open_one)).exit_code == 4
    for name, image in (("missing", f"{registries.address}/team/other:1"), ("denied", private)):
        cluster.core.create_namespaced_pod(namespace, pod(cluster, name, "true", image=image))
        cluster.wait_for(lambda: waiting_reason(cluster, namespace, name) == "ErrImagePull")  # noqa: B023  # called at once
    cluster.core.create_namespaced_secret(namespace, registries.pull_secret("login"))
    described = pod(cluster, "private", "exit 5", image=private)
    described["spec"]["imagePullSecrets"] = [{"name": "login"}]
    assert run_pod(cluster, namespace, described).exit_code == 5


def test_a_pod_that_stores_more_than_its_limit_is_evicted(cluster: ClusterUnderTest, namespace: str) -> None:
    limits = {"limits": {"ephemeral-storage": "1Mi"}}
    script = "dd if=/dev/zero of=/tmp/full bs=1M count=8; sleep 600"
    cluster.core.create_namespaced_pod(namespace, pod(cluster, "one", script, resources=limits))
    cluster.wait_for(lambda: cluster.core.read_namespaced_pod("one", namespace).status.reason == "Evicted")


def test_the_test_cluster_survives_a_kubelet_restart(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600", node="node2"))
    pid = control.process("node2-kubelet").pid
    control.kill_kubelet("node2")
    assert control.process("node2-kubelet").pid is None
    assert control.nodes["node2"].container_processes()
    control.start_kubelet("node2")
    assert control.process("node2-kubelet").pid not in (pid, None)
    assert running(cluster, namespace, name)


def test_the_pod_of_a_lost_node_is_given_up_while_it_still_runs(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600", node="node2"))
    control.kill_kubelet("node2")
    cluster.wait_for(lambda: "DisruptionTarget" in conditions(cluster, namespace, name))
    assert running(cluster, namespace, name)
    assert control.nodes["node2"].container_processes()


def conditions(cluster: ClusterUnderTest, namespace: str, name: str) -> dict[str, str]:
    found = cluster.core.read_namespaced_pod(name, namespace).status.conditions or ()
    return {condition.type: condition.reason for condition in found}


def test_a_deleted_node_comes_back(cluster: ClusterUnderTest, control: ClusterControl) -> None:
    control.kill_kubelet("node2")
    control.delete_node("node2")
    assert not control.node_exists("node2")
    control.start_kubelet("node2")
    assert control.is_ready("node2")


def test_a_node_that_reboots_has_lost_its_containers(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600", node="node2"))
    control.crash_node("node2")
    assert not control.nodes["node2"].container_processes()
    control.reboot_node("node2")
    ended = cluster.wait_for(lambda: container_state(cluster, namespace, name).terminated)
    assert (ended.exit_code, ended.reason) == (255, "Unknown")
    assert run_pod(cluster, namespace, pod(cluster, "two", "exit 3", node="node2")).exit_code == 3


def test_a_node_under_pressure_evicts_its_pods(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    control.limit_disk("node2")
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600", node="node2"))
    control.fill_disk("node2")
    cluster.wait_for(lambda: cluster.core.read_namespaced_pod(name, namespace).status.reason == "Evicted")
    control.relieve("node2")
    assert run_pod(cluster, namespace, pod(cluster, "two", "exit 3", node="node2")).exit_code == 3


def test_the_test_cluster_survives_a_containerd_restart(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600", node="node2"))
    control.kill_containerd("node2")
    assert control.nodes["node2"].container_processes()
    control.start_containerd("node2")
    assert run_pod(cluster, namespace, pod(cluster, "two", "exit 3", node="node2")).exit_code == 3
    assert running(cluster, namespace, name)


def test_the_test_cluster_survives_an_api_server_restart(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600"))
    with control.without_api_server(), pytest.raises(HTTPError):
        cluster.core.read_namespaced_pod(name, namespace)
    assert running(cluster, namespace, name)


def test_the_test_cluster_survives_an_etcd_restart(
    cluster: ClusterUnderTest, namespace: str, control: ClusterControl
) -> None:
    name = start_pod(cluster, namespace, pod(cluster, "one", "sleep 600"))
    control.kill_etcd()
    with pytest.raises((ApiException, HTTPError)):
        cluster.core.create_namespaced_pod(namespace, pod(cluster, "two", "true"), _request_timeout=5)
    control.start_etcd()
    assert running(cluster, namespace, name)


def test_the_api_proxy_can_hold_an_answer_and_lose_it(
    cluster: ClusterUnderTest, namespace: str, proxy: ApiProxy
) -> None:
    through: Any = client.CoreV1Api(api_client(proxy.kubeconfig))
    through.api_client.configuration.retries = False
    proxy.hold("POST .*/pods", "answer")
    errors: list[Exception] = []

    def create() -> None:
        try:
            through.create_namespaced_pod(namespace, pod(cluster, "one", "exit 3"))
        except HTTPError as error:
            errors.append(error)

    thread = threading.Thread(target=create)
    thread.start()
    proxy.await_held()
    proxy.cut()
    thread.join()
    assert len(errors) == 1
    # It was created none the less.
    cluster.wait_for(lambda: getattr(container_state(cluster, namespace, "one"), "terminated", None))
    assert [pod.metadata.name for pod in through.list_namespaced_pod(namespace).items] == ["one"]
    assert len(proxy.asked("POST .*/pods")) == 1


def test_the_api_proxy_can_fall_silent_and_answer_again(
    cluster: ClusterUnderTest, namespace: str, proxy: ApiProxy
) -> None:
    through: Any = client.CoreV1Api(api_client(proxy.kubeconfig))
    through.list_namespaced_pod(namespace)
    assert proxy.connections == 1
    proxy.fall_silent(for_new=True)
    with pytest.raises(HTTPError, match="timed out"):
        through.list_namespaced_pod(namespace, _request_timeout=0.5)
    proxy.speak()
    through.list_namespaced_pod(namespace)

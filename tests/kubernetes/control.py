"""What a test does to the cluster that `python -m tests.kubernetes` has started, from whichever process it runs in."""

from __future__ import annotations

import json
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..polling import PATIENCE_SECONDS
from . import control_plane, registries
from .control_plane import NODES
from .node import SPARE_BYTES, Node
from .server_process import ServerProcess

# What asks the API server for little, and often enough.
_PAUSE_SECONDS = 0.1


def own_namespace() -> str:
    """Return the name of the process namespace that this process is in."""
    return str(Path("/proc/self/ns/pid").readlink())


def api_client(kubeconfig: Path) -> Any:
    """Return the official client of whom a kubeconfig is."""
    from kubernetes import config

    # Untyped, as the rest of what is asked by it.
    config_module: Any = config
    return config_module.new_client_from_config(str(kubeconfig))


class ClusterControl:
    """The parts of a cluster by the folder that holds their files.

    Parts are called as their programs: ``etcd``, ``kube-apiserver``, ``kube-controller-manager``, ``kube-scheduler``,
    ``registry``, ``private-registry``; and ``node1-containerd``, ``node1-kubelet`` and so on for both nodes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = {name: Node(cluster=folder, name=name) for name in NODES}
        self.kubeconfig = folder / "control-plane" / "credentials" / "admin.kubeconfig"
        self.authority = self.kubeconfig.with_name("ca.pem")

    @property
    def registries(self) -> registries.Registries:
        """The registries that nodes can pull from."""
        return registries.Registries.stored(self.folder / "registries")

    @property
    def names(self) -> list[str]:
        """The names of all parts, in the order in which they can be started."""
        nodes = [f"{node}-{program}" for program in ("containerd", "kubelet") for node in NODES]
        return [*registries.NAMES, *control_plane.NAMES, *nodes]

    def process(self, name: str) -> ServerProcess:
        """Return a part."""
        return ServerProcess.stored(self.folder / "processes", name)

    @property
    def is_in_hand(self) -> bool:
        """Whether this process is in the cluster's process namespace: only there its pids mean its processes."""
        return (self.folder / "namespace").read_text() == own_namespace()

    # The whole

    def start(self) -> None:
        """Start what does not run; return when the API server answers and both nodes are ready.

        Raise RuntimeError with all parts' last words if it takes longer than anything should.
        """
        for name in ("etcd", *(f"{node}-containerd" for node in NODES), *registries.NAMES):
            self.process(name).start()
        self.start_api_server()
        for name in ("kube-controller-manager", "kube-scheduler"):
            self.process(name).start()
        ended = [node for node in NODES if self.nodes[node].kubelet.pid is None]
        for node in ended:
            # Both at once.
            self.nodes[node].kubelet.start()
        for node in ended:
            self.start_kubelet(node)
        for node in NODES:
            self.await_ready(node)

    def restore(self) -> None:
        """Make good whatever a test has done: everything runs, and both nodes are ready."""
        for name in self.names:
            self.resume(name)
        self.start_api_server()
        for node in NODES:
            # Only at its start does a kubelet make its Node object.
            if not self.node_exists(node):
                self.kill_kubelet(node)
            if self.nodes[node].reserve.exists() or self._is_under_pressure(node):
                self.relieve(node)
        self.start()

    # The control plane

    def kill_api_server(self) -> None:
        """End the API server as a crash would."""
        self.process("kube-apiserver").end()

    def start_api_server(self) -> None:
        """Start etcd and the API server where they do not run; return when the API answers."""
        self.process("etcd").start()
        self.process("kube-apiserver").start()
        self.wait_for(self._api_answers, "the API server to answer")

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """Have no API server for a while."""
        self.kill_api_server()
        try:
            yield
        finally:
            self.start_api_server()

    def kill_etcd(self) -> None:
        """End etcd as a crash would. The API server goes on, and answers with errors."""
        self.process("etcd").end()

    def start_etcd(self) -> None:
        """Start etcd; return when the API answers."""
        self.start_api_server()

    def pause(self, name: str) -> None:
        """Let a part fall silent: its connections stay open."""
        self.process(name).send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a part go on."""
        self.process(name).send(signal.SIGCONT)

    # Nodes

    def kill_kubelet(self, node: str) -> None:
        """End a node's kubelet as a crash would. Its containers go on; after 21 s the node is taken for lost."""
        self.nodes[node].kubelet.end()

    def start_kubelet(self, node: str) -> None:
        """Start a node's kubelet; return when the node is ready."""
        self._start_kubelet(node, self.nodes[node].kubelet.start)

    def limit_disk(self, node: str) -> None:
        """Start a node's kubelet anew so that `fill_disk` makes the node short of disk; return when it is ready.

        Pods that it has by then it may refuse as it starts, instead of evicting them: that is another path.
        """
        self.kill_kubelet(node)
        least = str(self.nodes[node].free_bytes - SPARE_BYTES)
        self._start_kubelet(node, partial(self.nodes[node].start_kubelet_with, least))

    def fill_disk(self, node: str) -> None:
        """Let a node be short of disk while its kubelet runs: it evicts its pods, and takes no new ones."""
        self.nodes[node].take_reserve()

    def start_under_pressure(self, node: str) -> None:
        """Start a kubelet on a node that is short of disk: it refuses what runs there, and ends it."""
        self.kill_kubelet(node)
        # A kubelet takes 100% for none.
        self.nodes[node].start_kubelet_with("99%")

    def relieve(self, node: str) -> None:
        """End the node's pressure; return when it is ready and takes pods."""
        self.kill_kubelet(node)
        self.nodes[node].give_reserve_back()
        self.start_kubelet(node)
        self.wait_for(lambda: not self._is_under_pressure(node), f"{node} to be out of pressure")

    def kill_containerd(self, node: str) -> None:
        """End a node's containerd as a crash would. Its containers go on."""
        self.nodes[node].containerd.end()

    def start_containerd(self, node: str) -> None:
        """Start a node's containerd; return when it answers."""
        self.nodes[node].containerd.start()
        self.wait_for(self.nodes[node].answers, f"the containerd of {node} to answer")

    def crash_node(self, node: str) -> None:
        """End a node with all its containers at once, as when it loses its power. `reboot_node` starts it."""
        self.kill_kubelet(node)
        self.kill_containerd(node)
        self.nodes[node].end_containers()
        self.nodes[node].forget_memory()

    def reboot_node(self, node: str) -> None:
        """Start a node that has crashed; return when it is ready."""
        self.start_containerd(node)
        self.start_kubelet(node)

    def delete_node(self, node: str) -> None:
        """Delete the Node object, as who gives up on a node does. A kubelet makes it anew at its start only."""
        self.core.delete_node(node)

    def node_exists(self, node: str) -> bool:
        """Tell whether there is a Node object."""
        return self._node(node) is not None

    def await_ready(self, node: str) -> None:
        """Return when a node is ready, and takes pods."""
        self.wait_for(lambda: self.is_ready(node), f"{node} to be ready")

    def is_ready(self, node: str) -> bool:
        """Tell whether a node is ready, and no taint keeps pods away from it."""
        found = self._node(node)
        if found is None or found.spec.taints:
            return False
        return any(condition.type == "Ready" and condition.status == "True" for condition in found.status.conditions)

    def _is_under_pressure(self, node: str) -> bool:
        found = self._node(node)
        conditions = () if found is None else found.status.conditions
        return any(condition.type == "DiskPressure" and condition.status == "True" for condition in conditions)

    def _start_kubelet(self, node: str, start: Callable[[], None]) -> None:
        """Return when the node is ready by this kubelet's word: that of the former one counts for some 20 seconds."""
        began = datetime.now(UTC)

        def is_at_work() -> bool:
            # One whose containerd does not serve it yet ends: a service manager would start it again, too.
            start()
            return self._renewed_since(node, began)

        self.wait_for(is_at_work, f"the kubelet of {node} to be at work")
        self.await_ready(node)

    def _renewed_since(self, node: str, began: datetime) -> bool:
        from kubernetes.client import CoordinationV1Api

        leases: Any = CoordinationV1Api(self.core.api_client)
        # It goes with the Node object, and the kubelet makes it anew.
        found = _unless_absent(lambda: leases.read_namespaced_lease(node, "kube-node-lease"))
        return found is not None and found.spec.renew_time > began

    def _node(self, node: str) -> Any:
        """Return the Node object, or None."""
        return _unless_absent(lambda: self.core.read_node(node, _request_timeout=PATIENCE_SECONDS))

    # The API

    @cached_property
    def core(self) -> Any:
        """The API of pods, nodes and so on, as the administrator has it."""
        from kubernetes.client import CoreV1Api

        return CoreV1Api(api_client(self.kubeconfig))

    def _api_answers(self) -> bool:
        server = json.loads(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        context = ssl.create_default_context(cafile=self.authority)
        with suppress(OSError), urllib.request.urlopen(f"{server}/readyz", context=context, timeout=5) as answer:  # noqa: S310  # its own address
            return bool(answer.status == 200)
        return False

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition of the cluster.

        Raise RuntimeError if it takes longer than anything should.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"Waited in vain for {what}.\n{self.last_words()}")
            time.sleep(_PAUSE_SECONDS)

    def last_words(self) -> str:
        """Return whether each part runs, and what it has said last."""
        parts = [self.process(name) for name in self.names]
        return "\n".join(f"== {part.name}: pid {part.pid}\n{part.last_words()}" for part in parts)


def _unless_absent(read: Callable[[], Any]) -> Any:
    """Return what the API server has, or None."""
    from kubernetes.client import ApiException

    try:
        return read()
    except ApiException as error:
        if error.status == 404:
            return None
        raise

"""A node of the tests' cluster: a containerd and a kubelet in a folder and a control group of their own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..docker import daemon_leftovers
from ..ports import free_port
from . import images, programs
from .control_plane import NODES, SERVICE_ADDRESSES, Credentials
from .server_process import ServerProcess

# A pod has an address of its own, and a node up to 300 pods.
_SUBNET = "10.244.{}.0/23"
# Where Debian's containernetworking-plugins puts its programs.
_NETWORK_PROGRAMS = Path("/usr/lib/cni")
_EVICTS_NOTHING = {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
# By how much others, who use the disk too, may change what is free of it while a test has a node short of it, or not.
SPARE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, by its name; ``cluster`` is the cluster's folder."""

    cluster: Path
    name: str

    @property
    def folder(self) -> Path:
        """The folder of all that the node stores."""
        return self.cluster / self.name

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.folder / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The control group of its pods: it finds their processes when nobody knows of them any more."""
        return f"{self.cluster.name}-{self.name}"

    @property
    def containerd(self) -> ServerProcess:
        """Its containerd. The containers go on without it."""
        return ServerProcess.stored(self.cluster / "processes", f"{self.name}-containerd")

    @property
    def kubelet(self) -> ServerProcess:
        """Its kubelet. The containers go on without it."""
        return ServerProcess.stored(self.cluster / "processes", f"{self.name}-kubelet")

    @property
    def reserve(self) -> Path:
        """A file that takes so much of the disk that the node is short of it."""
        return self.folder / "reserve"

    def start_kubelet_with(self, least: str) -> None:
        """Start its kubelet so that the node is short of disk where less than this is free: bytes, or a percentage."""
        kubelet = json.loads((self.folder / "kubelet.json").read_text())
        kubelet["evictionHard"] = {**_EVICTS_NOTHING, "nodefs.available": least}
        self._short_of_disk.write_text(json.dumps(kubelet, indent=1))
        self.kubelet.start(f"--config={self._short_of_disk}")

    @property
    def _short_of_disk(self) -> Path:
        return self.folder / "kubelet-short-of-disk.json"

    @property
    def free_bytes(self) -> int:
        """How much of the disk is free; others use it too."""
        return shutil.disk_usage(self.folder).free

    def take_reserve(self) -> None:
        """Take as much of the disk as makes the node short of it by what its kubelet was started with."""
        least = int(json.loads(self._short_of_disk.read_text())["evictionHard"]["nodefs.available"])
        with self.reserve.open("wb") as file:
            # Without writing it.
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - least + SPARE_BYTES)

    def give_reserve_back(self) -> None:
        self.reserve.unlink(missing_ok=True)

    def container_processes(self) -> set[int]:
        """Return the pids of the pods' processes."""
        return daemon_leftovers.members(self.cgroup)

    def containers(self) -> list[str]:
        """Return the ids of all containers that its containerd knows: those of ended pods too, until the kubelet
        removes them.
        """
        return images.ctr(self.socket, "containers", "ls", "-q").split()

    def end_containers(self) -> None:
        """Kill all pods' processes and their shims at once, as when the machine loses its power."""
        while daemon_leftovers.end(daemon_leftovers.helpers(self.folder)):
            pass
        daemon_leftovers.end_members(self.cgroup)

    def forget_memory(self) -> None:
        """Take away what containerd keeps in memory on a machine, while nothing runs there."""
        daemon_leftovers.unmount(self.folder)
        for name in ("containerd-state", "runc"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def answers(self) -> bool:
        """Tell whether containerd answers, with all that a kubelet asks of it."""
        try:
            plugins = images.ctr(self.socket, "plugins", "ls")
        except RuntimeError:
            return False
        return any(line.split()[1] == "cri" and line.split()[-1] == "ok" for line in plugins.splitlines())

    def define(self, credentials: Credentials) -> None:
        """Write the node's files, make its control group, and store its programs."""
        self.folder.mkdir()
        processes = self.cluster / "processes"
        settings = self.folder / "containerd.toml"
        settings.write_text(self._containerd_settings())
        (self.folder / "network").mkdir()
        (self.folder / "network" / "10-tests.conflist").write_text(json.dumps(self._network()))
        ServerProcess.defined(processes, f"{self.name}-containerd", ["containerd", "--config", str(settings)])
        kubelet = self._kubelet_settings(credentials)
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(kubelet, indent=1))
        make_cgroup(self.cgroup)
        arguments = [
            f"--config={path}",
            f"--kubeconfig={credentials.kubeconfig_path(self.name)}",
            f"--hostname-override={self.name}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'certificates'}",
        ]
        ServerProcess.defined(processes, f"{self.name}-kubelet", [str(programs.folder() / "kubelet"), *arguments])

    def _network(self) -> dict[str, Any]:
        """Return the pod network's configuration: a pair of interfaces for each pod, and no way out but to Services."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": _SUBNET.format(2 * NODES.index(self.name))}]],
            "dataDir": str(self.folder / "addresses"),
            "routes": [{"dst": SERVICE_ADDRESSES}],
        }
        plugin = {"type": "ptp", "ipMasq": False, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": self.name, "plugins": [plugin]}

    def _containerd_settings(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""\
version = 2
root = "{self.folder / "containerd"}"
state = "{self.folder / "containerd-state"}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.folder / "containerd-ttrpc.sock"}"
[{cri}]
  # A sandbox would else get a value that only a process with more rights may set: none would start.
  restrict_oom_score_adj = true
  sandbox_image = "{images.full_name(images.SANDBOX_IMAGE)}"
  stats_collect_period = 2
  netns_mounts_under_state_dir = true
  [{cri}.cni]
    bin_dir = "{_NETWORK_PROGRAMS}"
    conf_dir = "{self.folder / "network"}"
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [{cri}.containerd.runtimes.runc.options]
      Root = "{self.folder / "runc"}"
"""

    def _kubelet_settings(self, credentials: Credentials) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": free_port(),
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(credentials.folder / "ca.pem")},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            "podLogsDir": str(self.folder / "logs"),
            "maxPods": 300,
            "evictionHard": _EVICTS_NOTHING,
            # By default a node stays under pressure for five minutes after its end.
            "evictionPressureTransitionPeriod": "5s",
            # How often it is measured what pods store: once a minute by default.
            "volumeStatsAggPeriod": "3s",
            "imageGCHighThresholdPercent": 100,
            # A node that is short of disk removes images that no pod uses; tests cannot pull them again.
            "imageMinimumGCAge": "24h",
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 20,
            # Small enough for a test to write more than it holds.
            "containerLogMaxSize": "1Mi",
            "containerLogMaxFiles": 3,
            "containerLogMonitorInterval": "3s",
        }


def make_cgroup(name: str) -> None:
    """Make a control group at the top of every hierarchy, with all processors and memory."""
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir()
        for value in ("cpuset.cpus", "cpuset.mems"):
            # Of the second version, those of the top group are not there, and a new group has them all.
            with suppress(FileNotFoundError):
                (group / value).write_text((hierarchy / value).read_text())


def _hierarchies() -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, point, kind, *_rest = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(point)

"""A Kubernetes cluster for the tests on this machine, removed without a trace.

All of it runs in a process namespace and a mount namespace of its own. So its end is the end of one process: with it
go all others, containers too, and all that was mounted. What else it changes on the machine is put back here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from ..docker import daemon_leftovers, image
from ..servers import run_command
from . import api_service, programs
from .control import ClusterControl
from .control_plane import NODES
from .node import Node

# In the cluster's folder from when it is ready: the pid of its first process, as the machine knows it.
FIRST_PID = "first.pid"
_CLONE_NEWPID = 0x20000000
_PROGRAMS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "docker-registry": "docker-registry",
    "htpasswd": "apache2-utils",
    "openssl": "openssl",
    "mount": "mount",
}
# A kubelet and its network plugin set them for the whole machine.
_KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
)
# What containerd and kubelets share on a machine, whatever they are told; each is covered for them.
SHARED_FOLDERS = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")


def obstacle() -> str:
    """Say why no cluster can be started here; empty if one can."""
    if os.getuid() != 0:
        return "it needs root"
    for name, package in _PROGRAMS.items():
        if shutil.which(name) is None:
            return f"{package} is not installed"
    if not Path("/usr/lib/cni/ptp").exists():
        return "containernetworking-plugins is not installed"
    if find_spec("kubernetes") is None:
        return "the Python package kubernetes is not installed"
    if programs.missing() and shutil.which("go") is None:
        return "its programs are not built yet, and Go is not installed"
    return image.obstacle()


def run_beside_cluster(command: list[str]) -> int:
    """Run a command with a cluster beside it; return its exit code. Only one such cluster runs at a time."""
    with _alone(), _restored(), tempfile.TemporaryDirectory(prefix="cm-kubernetes-") as name:
        folder = Path(name)
        # From now on this process's children are in the new namespace: the first is its init, with which all others end.
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWPID):
            raise OSError(ctypes.get_errno(), "no process namespace of its own")
        try:
            return run_command(
                [sys.executable, "-m", "tests.kubernetes.cluster_namespace", str(folder), *command], {**os.environ}
            )
        finally:
            for node in NODES:
                daemon_leftovers.remove_cgroups(Node(cluster=folder, name=node).cgroup)


def join(command: Sequence[str]) -> NoReturn:
    """Become a command in the namespaces of the cluster that runs on this machine."""
    started = sorted(Path(tempfile.gettempdir()).glob(f"cm-kubernetes-*/{FIRST_PID}"))
    if not started:
        sys.exit("No Kubernetes of the tests runs here.")
    pid = started[0].read_text()
    enter = ["nsenter", f"--target={pid}", "--mount", "--pid", f"--wd={Path.cwd()}", "--"]
    environment = {**os.environ, **addresses(started[0].parent)}
    os.execvpe(enter[0], [*enter, *command], environment)  # noqa: S606  # no shell is wanted


def addresses(folder: Path) -> dict[str, str]:
    """Return how tests are told of the cluster in a folder."""
    return {
        "CM_TEST_KUBERNETES": str(ClusterControl(folder).kubeconfig),
        "CM_TEST_KUBERNETES_FOLDER": str(folder),
    }


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for another cluster on this machine: both would have the same addresses for their pods."""
    with (Path(tempfile.gettempdir()) / "cm-kubernetes.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("Kubernetes: waiting for another cluster of the tests to end.\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what the cluster changes on the machine: the kernel's settings, an address, folders that were not there."""
    paths = [Path("/proc/sys", name) for name in _KERNEL_SETTINGS]
    settings = {path: path.read_text() for path in paths if path.exists()}
    made = [path for path in map(Path, SHARED_FOLDERS) if not path.exists()]
    for path in made:
        path.mkdir(parents=True)
    try:
        yield
    finally:
        api_service.remove_address()
        for path, value in settings.items():
            if path.read_text() != value:
                path.write_text(value)
        for path in made:
            with suppress(OSError):
                path.rmdir()

"""The first process of a cluster's namespaces: start the cluster, run a command beside it, and end.

``python -m tests.kubernetes.cluster_namespace FOLDER COMMAND …``. The kernel ends all that is left in the process namespace.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from . import control_plane, images
from .cluster import FIRST_PID, SHARED_FOLDERS, addresses
from .control import ClusterControl, own_namespace
from .control_plane import NODES
from .registries import Registries

_CLONE_NEWNS = 0x00020000
_PR_SET_PDEATHSIG = 1


def main(folder: Path, command: list[str]) -> int:
    # As init it gets no signal that it has no handler for.
    signal.signal(signal.SIGTERM, _end)
    # Until the namespace's own /proc is mounted, that of the machine.
    pid = Path("/proc/self").readlink().name
    _enter_mount_namespace(folder)
    started = time.monotonic()
    _start(folder)
    sys.stderr.write(f"Kubernetes: two nodes are ready after {time.monotonic() - started:.1f} s.\n")
    (folder / FIRST_PID).write_text(pid)
    return _run(command, {**os.environ, **addresses(folder)})


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _enter_mount_namespace(folder: Path) -> None:
    """Mount for this process and all it starts only: what the machine has is not touched, and what is mounted ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace of its own")
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    for path in SHARED_FOLDERS:
        _mount("-t", "tmpfs", "tmpfs", path)
    # The API server finds kubelets by their nodes' names.
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 {' '.join(NODES)}\n{Path('/etc/hosts').read_text()}")
    _mount("--bind", str(hosts), "/etc/hosts")


def _mount(*arguments: str) -> None:
    command = ["mount", *arguments]
    subprocess.run(command, check=True)


def _start(folder: Path) -> None:
    """Write the cluster's files, and start it."""
    processes = folder / "processes"
    credentials = control_plane.define(folder / "control-plane", processes)
    registries = Registries.define(folder / "registries", processes)
    cluster = ClusterControl(folder)
    (folder / "namespace").write_text(own_namespace())
    archive = folder / "images.tar"
    images.write_archive(archive)
    for node in cluster.nodes.values():
        node.define(credentials)
        cluster.start_containerd(node.name)
        images.ctr(node.socket, "images", "import", archive)
    cluster.start()
    registries.push(cluster.nodes["node1"])


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end, and reap all that has no parent any more; return the exit code."""
    pid = os.posix_spawnp(command[0], command, environment)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    # The terminal tells the command as well, which says when it is over.
    signal.signal(signal.SIGINT, lambda *_: None)
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

"""Find and remove what a crashed Docker daemon leaves on the machine: processes, cgroups, mounts, sockets."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_PATIENCE_SECONDS = 30


def end(pids: Iterable[int], number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal processes and wait until they have ended; tell whether there were any."""
    descriptors: list[int] = []
    try:
        for pid in pids:
            # A descriptor cannot come to mean another process, as a pid can.
            with suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(descriptors[-1], number)
        for descriptor in descriptors:
            await_end(descriptor, _PATIENCE_SECONDS)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return bool(descriptors)


def await_end(descriptor: int, seconds: float) -> None:
    """Wait until the process behind a pidfd has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(seconds * 1000):
        raise TimeoutError(f"A process did not end within {seconds} s.")


def helpers(exec_root: Path) -> list[int]:
    """Return the pids of the containerd, the shims and the runtimes that work in a daemon's own folder."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.fsencode(f"{exec_root}/") in (entry / "cmdline").read_bytes():
                    pids.append(int(entry.name))
    return pids


def shim_sockets(exec_root: Path) -> list[Path]:
    """Return the sockets of shims: containerd keeps them in a folder of the machine, each named in its task's folder."""
    tasks = exec_root / "containerd" / "daemon" / "io.containerd.runtime.v2.task"
    return [Path(file.read_text().removeprefix("unix://")) for file in tasks.glob("*/*/address")]


def cgroups(parent: str) -> list[Path]:
    """Return the folders of a control group, one of each hierarchy."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    folders = [Path(mount[1]) / parent for mount in mounts if mount[2] in ("cgroup", "cgroup2")]
    return [folder for folder in folders if folder.is_dir()]


def members(parent: str) -> set[int]:
    """Return the pids of all processes in a control group and those below it."""
    pids: set[int] = set()
    for file in _files(parent, "cgroup.procs"):
        with suppress(OSError):
            pids.update(int(pid) for pid in file.read_text().split())
    return pids


def end_members(parent: str) -> None:
    """Kill all processes of a control group, the paused ones too."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        for file in _files(parent, name):
            with suppress(OSError):
                file.write_text(word)
    while end(members(parent)):
        pass


def remove_cgroups(parent: str) -> None:
    """Remove an empty control group and those below it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while folders := cgroups(parent):
        for folder in folders:
            for inner in sorted(_folders(folder), reverse=True):
                with suppress(OSError):
                    inner.rmdir()
        if time.monotonic() > deadline:
            raise TimeoutError(f"The control group {parent} could not be removed.")
        # The kernel lets a group go a moment after its last process, without an event.
        time.sleep(0.01)


def _folders(folder: Path) -> Iterator[Path]:
    # A group may vanish between two looks, which only os.walk takes lightly on every Python.
    yield from (Path(path) for path, _, _ in os.walk(folder))


def _files(parent: str, name: str) -> Iterator[Path]:
    for folder in cgroups(parent):
        yield from (inner / name for inner in _folders(folder) if (inner / name).exists())


def mounts(folder: Path) -> list[Path]:
    """Return what is mounted below a folder, in the order it was mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in points if point.is_relative_to(folder)]


def unmount(folder: Path) -> None:
    """Unmount everything below a folder: layers, shared memory, network namespaces."""
    for point in reversed(mounts(folder)):
        command = ["umount", "--lazy", str(point)]
        subprocess.run(command, check=True)

"""Podman's service, which speaks Docker's API, for the tests: in a folder of its own, removed without a trace."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from . import daemon_leftovers

_START_SECONDS = 60
# Podman knows by a file in it whether the machine was started anew.
_BOOT_FOLDER = "boot"
_INIT_FOLDERS = ("/usr/libexec/podman", "/usr/local/libexec/podman", "/usr/lib/podman")
# Those that podman sets for every container; its defaults are more than this process may allow.
_MOST = 4096
_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}


def program() -> str | None:
    """Return where podman is, or None."""
    return shutil.which("podman", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")


def obstacle() -> str:
    """Say why no podman can be started here; empty if one can."""
    if program() is None:
        return "podman is not installed"
    if not any((Path(folder) / "catatonit").exists() for folder in _INIT_FOLDERS):
        return "catatonit, podman's init process, is not installed"
    return "" if os.getuid() == 0 else "podman needs root here"


class Podman:
    """A ``podman system service``: running between `start` and `close`, or within the context.

    Its state, images, containers and locks are in its folder. Its containers have no network but their own loopback.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cm-podman-"))
        self.socket_path = self.folder / "podman.sock"
        self.url = f"unix://{self.socket_path}"
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._program = program() or "podman"
        self._configure()

    def _configure(self) -> None:
        limits = ", ".join(f'"{name}={_pair(number)}"' for name, number in _LIMITS.items())
        # A runtime for either version of control groups.
        runtime = "runc" if shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin") else "crun"
        (self.folder / "containers.conf").write_text(
            f"""
            [containers]
            default_ulimits = [{limits}]
            [engine]
            cgroup_manager = "cgroupfs"
            events_logger = "file"
            # Else all podmans of the machine share their locks.
            lock_type = "file"
            runtime = "{runtime}"
            static_dir = "{self.folder}/static"
            tmp_dir = "{self.folder / _BOOT_FOLDER}"
            volume_path = "{self.folder}/volumes"
            [network]
            network_config_dir = "{self.folder}/networks"
            """
        )
        (self.folder / "storage.conf").write_text(
            f"""
            [storage]
            driver = "overlay"
            graphroot = "{self.folder}/root"
            runroot = "{self.folder}/run"
            """
        )
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "TMPDIR": str(self.folder),
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the service, and return when its API answers."""
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is for the tests, which still need the service to end well.
            self._process = subprocess.Popen(
                [self._program, "system", "service", "--time=0", self.url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"podman did not answer:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)  # it tells nobody that it is ready

    def answers(self) -> bool:
        """Tell whether the API answers a ping."""
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(_START_SECONDS)
            connection.connect(str(self.socket_path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(4096)
        return False

    def kill(self) -> None:
        """End the service as a crash would. Its containers go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def run(self, *arguments: str) -> str:
        """Run a command of podman beside the service, on the same containers."""
        done = subprocess.run(
            [self._program, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self.folder,
        )
        return done.stdout.strip()

    def forget_boot(self) -> None:
        """Make the next podman believe that the machine was started anew: end all containers, and remove that mark."""
        self.kill()
        for container in self.run("ps", "--quiet", "--no-trunc").splitlines():
            pids = self.run("inspect", "--format", "{{.State.ConmonPid}} {{.State.Pid}}", container).split()
            daemon_leftovers.end(int(pid) for pid in pids)
            daemon_leftovers.remove_cgroups(f"libpod_parent/libpod-{container}")
        (self.folder / _BOOT_FOLDER / "alive").unlink()

    def close(self) -> None:
        """End everything, and leave nothing. Containers get no time to end themselves."""
        self.kill()
        with suppress(subprocess.CalledProcessError):
            self.run("rm", "--all", "--force", "--time", "0", "--volumes")
        while daemon_leftovers.end(daemon_leftovers.helpers(self.folder)):
            pass
        daemon_leftovers.unmount(self.folder)
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _pair(limit: int) -> str:
    _, hard = resource.getrlimit(limit)
    most = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    return f"{most}:{most}"

"""An SSH server on the loopback that gives access to a daemon's socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..ports import free_port
from . import daemon_leftovers

_START_SECONDS = 180
_SSHD = "/usr/sbin/sshd"


def obstacle() -> str:
    """Say why no SSH server can be started here; empty if one can."""
    if not Path(_SSHD).exists():
        return "sshd is not installed"
    if shutil.which("docker") is None:
        # It is what the far side of docker's ssh:// runs.
        return "the docker program is not installed"
    return "" if os.getuid() == 0 else "sshd needs root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is. A client must run with ``path`` as its PATH: it has an ssh that knows host, key and user."""

    url: str
    path: str
    pid: int

    def cut(self) -> None:
        """End all connections, as a network that fails does; new ones can be made."""
        daemon_leftovers.end(self.processes())

    def processes(self) -> list[int]:
        """Return the pids of what serves the connections."""
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        return []


@contextmanager
def running(docker_url: str) -> Iterator[Server]:
    """Run an SSH server whose ``docker`` talks to the daemon at ``docker_url``."""
    with tempfile.TemporaryDirectory(prefix="cm-ssh-") as name:
        folder, port = Path(name), free_port()
        _write_keys(folder, port, docker_url)
        _write_configurations(folder, port)
        _write_client(folder)
        # Where sshd keeps its unprivileged half; only the service's script makes it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (folder / "log").open("wb") as log:
            # A session of its own: Ctrl-C is for the tests.
            command = [_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        path = f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        server = Server(url=f"ssh://root@127.0.0.1:{port}", path=path, pid=process.pid)
        try:
            _await(port, process, folder / "log")
            yield server
        finally:
            connections = server.processes()
            process.terminate()
            process.wait()
            daemon_leftovers.end(connections)


def _write_keys(folder: Path, port: int, docker_url: str) -> None:
    for name in ("host_key", "client_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cm-test", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    # The far side runs what it is asked to, with a docker that finds this daemon and no settings of the machine's.
    settings = f'environment="DOCKER_HOST={docker_url}",environment="DOCKER_CONFIG={folder / "docker"}",restrict'
    (folder / "authorized_keys").write_text(f"{settings} {(folder / 'client_key.pub').read_text()}")


def _write_configurations(folder: Path, port: int) -> None:
    (folder / "sshd_config").write_text(
        f"""
        ListenAddress 127.0.0.1
        Port {port}
        HostKey {folder}/host_key
        PidFile none
        AuthorizedKeysFile {folder}/authorized_keys
        StrictModes no
        UsePAM no
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        PermitRootLogin prohibit-password
        PermitUserEnvironment DOCKER_HOST,DOCKER_CONFIG
        MaxStartups 100
        PrintLastLog no
        PrintMotd no
        """
    )
    (folder / "ssh_config").write_text(
        f"""
        Host *
        IdentityFile {folder}/client_key
        IdentitiesOnly yes
        IdentityAgent none
        UserKnownHostsFile {folder}/known_hosts
        GlobalKnownHostsFile none
        StrictHostKeyChecking yes
        BatchMode yes
        """
    )


def _write_client(folder: Path) -> None:
    """Write an ssh for the client's PATH: OpenSSH reads the user's own files, whatever HOME says."""
    programs = folder / "bin"
    programs.mkdir()
    client = programs / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    client.chmod(0o755)


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=_START_SECONDS).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.05)  # a server has no event to wait for before it listens
